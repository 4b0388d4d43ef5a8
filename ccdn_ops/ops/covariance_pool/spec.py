"""covariance_pool: schema, fake kernel, and what a backend must provide.

x (B, D, N) or (B, D, H, W), any strides -> covariance S = Xc Xc^T / N (B, D, D) in x's dtype;
trace (B,) of S in the accumulation dtype (float64 for float64, else float32). A sample counts as
constant where tr S <= (16 eps)^2 * (the mean over the positions of |x_n|^2), eps of the
accumulation dtype: its covariance, its trace and its gradient are 0.

A backend provides

  forward(x) -> covariance, trace
  backward(grad, x, trace) -> grad_x

and gets x always as (B, D, N) with B >= 1 and any strides, and everything else contiguous; grad_x
has the strides of torch.empty_like(x).
"""

from __future__ import annotations

from torch import Tensor

from ccdn_ops.ops.operator import Operator, define
from ccdn_ops.ops.raw import folded
from ccdn_ops.precision import accumulation_dtype
from ccdn_ops.work import Call, Work


def outputs(x: Tensor) -> tuple[Tensor, Tensor]:
    """Empty outputs of a forward pass, for backends to fill and for the fake kernel."""
    batch, channels = x.shape[:2]
    wide = accumulation_dtype(x.dtype)
    return x.new_empty(batch, channels, channels), x.new_empty(batch, dtype=wide)


def work(x: Tensor, call: Call) -> Work:
    batch, channels = x.shape[:2]
    size, features = x.element_size(), x.numel()
    rest = size * batch * channels * channels + batch * accumulation_dtype(x.dtype).itemsize
    product = 2 * channels * features
    half = (channels + 1) * features  # of a symmetric product
    return Work(
        "one symmetric product of the centred features",
        (size * features + rest, 2 * size * features + rest),
        # The reference computes the forward pass again, and the gradients of both factors.
        (2 * features + (product if call.literal else half), product * (3 if call.literal else 1)),
        side="channels",
    )


OPERATOR = define(
    Operator(
        name="covariance_pool",
        first="(B, D, N) or (B, D, H, W)",
        schema="(Tensor x) -> (Tensor covariance, Tensor trace)",
        fake=outputs,
        vmap=folded,
        work=work,
        tensors={"x": "BDHW"},
        results=["BDD"],
        samples=1,
    )
)
