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

import torch
from torch import Tensor

from ccdn_ops.backends import registry
from ccdn_ops.backends.native import accumulation_dtype, no_autocast
from ccdn_ops.ops.raw import folded, literally, register
from ccdn_ops.work import Call, Work


def outputs(x: Tensor) -> tuple[Tensor, Tensor]:
    """What a forward pass gives, to be filled: backends make it so, and the fake kernel."""
    batch, channels = x.shape[:2]
    wide = accumulation_dtype(x.dtype)
    return x.new_empty(batch, channels, channels), x.new_empty(batch, dtype=wide)


def _grad_empty(grad: Tensor, x: Tensor, trace: Tensor) -> Tensor:
    return torch.empty_like(x.flatten(2)).view(x.shape)


def _covariance_pool(x: Tensor) -> tuple[Tensor, Tensor]:
    if x.shape[0] == 0:
        return outputs(x)
    flat = x.flatten(2)
    backend = registry.select("covariance_pool", flat)
    with no_autocast(x.device.type):
        return backend.forward(flat)


def _covariance_pool_backward(grad: Tensor, x: Tensor, trace: Tensor) -> Tensor:
    if x.shape[0] == 0:
        return _grad_empty(grad, x, trace)
    flat = x.flatten(2)
    backend = registry.select("covariance_pool", flat)
    with no_autocast(x.device.type):
        found = backend.backward(grad.contiguous(), flat, trace.contiguous())
    return found.view(x.shape)


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


def _operations(x: Tensor) -> tuple[int, int]:
    return work(x, Call(literal=literally("covariance_pool", x))).operations


register(
    "covariance_pool(Tensor x) -> (Tensor covariance, Tensor trace)",
    kernel=_covariance_pool,
    fake=outputs,
    vmap=folded("covariance_pool"),
    operations=lambda x: _operations(x)[0],
)
register(
    "covariance_pool_backward(Tensor grad, Tensor x, Tensor trace) -> Tensor",
    kernel=_covariance_pool_backward,
    fake=_grad_empty,
    vmap=folded("covariance_pool_backward"),
    operations=lambda grad, x, trace: _operations(x)[1],
)
