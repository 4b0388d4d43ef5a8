"""isqrt_cov: schema, fake kernel, and what a backend must provide.

x (B, D, N) or (B, D, H, W), any strides -> root (B, D, D), or with `triu` (B, D (D + 1) / 2), its
upper triangle row by row, in x's dtype; trace (B,), 0 for a constant sample (covariance_pool.py),
whose root and gradient are 0; iterates as those of newton_schulz_sqrt.py, n x n, where n is D or,
side "positions" of newton_schulz_plan, N.

A backend provides

  forward(x, iterations, triu, save) -> root, trace, iterates
  backward(grad, x, trace, iterates, iterations, triu, save) -> grad_x

and gets x always as (B, D, N) with B >= 1 and any strides, and everything else contiguous; grad_x
has the strides of torch.empty_like(x).
"""

from __future__ import annotations

from torch import Tensor

from ccdn_ops.newton_schulz_plan import newton_schulz_plan, nothing_saved
from ccdn_ops.newton_schulz_work import iteration_work, saved_bytes
from ccdn_ops.ops.operator import Operator, define
from ccdn_ops.ops.raw import folded, sizes
from ccdn_ops.precision import accumulation_dtype
from ccdn_ops.work import Call, Work


def outputs(x: Tensor, iterations: int, triu: bool, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Empty outputs of a forward pass, for backends to fill and for the fake kernel."""
    batch, channels, positions = sizes(x)
    wide = accumulation_dtype(x.dtype)
    saved = nothing_saved(batch)
    if save:  # otherwise no size decides anything, so a graph may hold it open
        plan = newton_schulz_plan(channels, positions, iterations, x.dtype, save)
        saved = plan.saved_shape(batch, positions if plan.side == "positions" else channels)
    root = (batch, channels * (channels + 1) // 2) if triu else (batch, channels, channels)
    return (
        x.new_empty(root),
        x.new_empty(batch, dtype=wide),
        x.new_empty(saved, dtype=wide),
    )


def work(x: Tensor, call: Call) -> Work:
    batch, channels, positions = sizes(x)
    plan = newton_schulz_plan(channels, positions, call.iterations, x.dtype, call.save)
    by_positions = plan.side == "positions" and not call.literal
    n, m = (positions, channels) if by_positions else (channels, positions)
    size = x.element_size()
    root = batch * (channels * (channels + 1) // 2 if call.triu else channels**2) * size
    moved = x.numel() * size + root + saved_bytes(plan, x.dtype, batch, n)

    algorithm, (iterate, differentiate) = iteration_work(n, call, plan)
    square, half = 2 * n * n * m, n * (n + 1) * m  # with the features: a product, a symmetric one
    if call.literal:
        forward, backward = iterate + square, differentiate + 3 * square
    elif by_positions:
        # The Gram matrix, Q Xc^T, and the root; G Xc, the direction, and the gradient's two.
        forward = half + iterate + square + m * (m + 1) * n
        backward = 2 * m * m * n + half + differentiate + 2 * square
    else:
        forward = half + iterate
        backward = differentiate + square + (0 if plan.slots else half)
    return Work(
        algorithm,
        (moved, moved + x.numel() * size),
        (batch * forward, batch * backward),
        side="positions" if by_positions else "channels",
    )


OPERATOR = define(
    Operator(
        name="isqrt_cov",
        first="(B, D, N) or (B, D, H, W)",
        schema="(Tensor x, int iterations, bool triu, bool save) -> "
        "(Tensor root, Tensor trace, Tensor iterates)",
        fake=outputs,
        vmap=folded,
        work=work,
        tensors={"x": "BDHW"},
        results=["BDD"],
        samples=1,
        options={"iterations": 5, "triu": False, "save": True},
        variants=[{"triu": True}],
        # Odd and even, in float32 and in double; rows and upper triangles.
        calls=lambda x: [([x.flatten(2)], (k, triu, True)) for k, triu in ((5, False), (6, True))],
    )
)
