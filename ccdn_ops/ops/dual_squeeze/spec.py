"""dual_squeeze: schema, fake kernel, and what a backend must provide.

x (B, D, N) or (B, D, H, W), any strides -> first, second (B, D) in x's dtype; mean (B, D),
trace (B,) and gram in the accumulation dtype (float64 for float64, else float32).

  mean   over the positions
  trace  tr S of S = Xc Xc^T / N; exactly 0 for a sample that counts as constant, which is one
         with tr S <= (16 eps)^2 * (the mean over the positions of |x_n|^2), eps of the
         accumulation dtype: its deviation from the mean is rounding. Its second is 0, and so is
         the gradient that comes through second.
  gram   (B, n, n): S itself (side "channels", n = D) or Xc^T Xc / N (side "positions", n = N),
         or (B, 0, 0); dual_squeeze_plan says which

A backend provides

  forward(x, iterations) -> first, second, mean, trace, gram
  backward(grad_first, grad_second, x, mean, trace, gram, iterations) -> grad_x

and gets x always as (B, D, N) with B >= 1 and any strides, and everything else contiguous, the
gradients in x's dtype; grad_x has the strides of torch.empty_like(x).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ccdn_ops.newton_schulz_work import literal_products
from ccdn_ops.ops.operator import Operator, define
from ccdn_ops.ops.raw import folded, sizes
from ccdn_ops.plans import DualSqueezePlan, dual_squeeze_plan
from ccdn_ops.precision import DTYPE_NAMES, accumulation_dtype
from ccdn_ops.work import Call, Work


def outputs(x: Tensor, iterations: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Empty outputs of a forward pass, to be filled."""
    batch, channels, positions = sizes(x)
    wide = accumulation_dtype(x.dtype)
    # The smaller matrix. Sizes that a graph holds open are symbols: comparing them would add a
    # guard, and the graph would serve only the sizes on one side of it.
    n = torch.sym_min(channels, positions)
    return (
        x.new_empty(batch, channels),
        x.new_empty(batch, channels),
        x.new_empty(batch, channels, dtype=wide),
        x.new_empty(batch, dtype=wide),
        x.new_empty(batch, n, n, dtype=wide),
    )


def _plan(x: Tensor, iterations: int) -> DualSqueezePlan:
    _, channels, positions = sizes(x)
    # Sizes that torch.compile holds open are symbols, which no cache takes: the plan's comparisons
    # become guards, and one graph serves every size on the same side of them.
    known = isinstance(channels, int) and isinstance(positions, int)
    choose = dual_squeeze_plan if known else dual_squeeze_plan.__wrapped__
    device = "cpu" if x.is_meta else x.device.type  # as `literally` has it; sizes are the same
    return choose(channels, positions, iterations, DTYPE_NAMES[x.dtype], device)


def work(x: Tensor, call: Call) -> Work:
    batch, channels, positions = sizes(x)
    plan = _plan(x, call.iterations)
    size, wide = x.element_size(), accumulation_dtype(x.dtype).itemsize
    n = min(channels, positions)
    vectors = 2 * batch * channels * size
    saved = batch * (channels + 1 + (n * n if plan.saves_gram else 0)) * wide
    moved = x.numel() * size + vectors + saved
    if call.literal:
        products = literal_products(call.iterations)
        algorithm = f"the covariance and {products} products of {channels} x {channels}"
        forward = 2 * batch * (channels**2 * positions + products * channels**3)
        # It recomputes the forward pass, then two products for each of its products.
        operations = forward, 3 * forward
    else:
        algorithm = f"{plan.terms} Chebyshev terms on one vector, gradient of rank {plan.rank}"
        operations = _planned_operations(batch, channels, positions, plan)
    side = "channels" if call.literal else plan.side
    return Work(algorithm, (moved, moved + x.numel() * size), operations, side)


def _planned_operations(
    batch: int, channels: int, positions: int, plan: DualSqueezePlan
) -> tuple[int, int]:
    """Of the plan's algorithm."""
    n, m = sorted((channels, positions))
    gram = n * (n + 1) * m  # half of a symmetric product
    recurrence = 2 * (plan.terms - 1) * n * n
    ends = (2 if plan.root else 4) * channels * positions
    # The gradient, by one n x n matrix made of thin factors or by the thin factors themselves.
    thin = 8 * (plan.rank + (0 if plan.root else 1)) * n * m
    dense = 4 * plan.rank * n * n + 2 * n * n * m
    gradient = dense if plan.dense_gradient else thin
    return batch * (gram + recurrence + ends), batch * (2 * recurrence + gradient + 2 * ends)


OPERATOR = define(
    Operator(
        name="dual_squeeze",
        first="(B, D, N) or (B, D, H, W)",
        schema="(Tensor x, int iterations) -> "
        "(Tensor first, Tensor second, Tensor mean, Tensor trace, Tensor gram)",
        outputs=2,
        fake=outputs,
        vmap=folded,
        work=work,
        tensors={"x": "BDHW"},
        results=["BD", "BD"],
        samples=1,
        options={"iterations": 5},
    )
)
