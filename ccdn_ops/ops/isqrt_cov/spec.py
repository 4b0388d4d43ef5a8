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

import torch
from torch import Tensor

from ccdn_ops.backends import registry
from ccdn_ops.backends.native import accumulation_dtype, no_autocast
from ccdn_ops.newton_schulz_plan import newton_schulz_plan, nothing_saved
from ccdn_ops.ops.newton_schulz_sqrt.spec import iteration_work
from ccdn_ops.ops.raw import folded, literally, register, sizes
from ccdn_ops.work import Call, Work


def outputs(x: Tensor, iterations: int, triu: bool, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    """What a forward pass gives, to be filled: backends make it so, and the fake kernel."""
    batch, channels, positions = sizes(x)
    wide = accumulation_dtype(x.dtype)
    saved = nothing_saved(batch)
    if save:  # else no size decides on anything, so that a graph may hold it open
        plan = newton_schulz_plan(channels, positions, iterations, x.dtype, save)
        saved = plan.saved_shape(batch, positions if plan.side == "positions" else channels)
    root = (batch, channels * (channels + 1) // 2) if triu else (batch, channels, channels)
    return (
        x.new_empty(root),
        x.new_empty(batch, dtype=wide),
        x.new_empty(saved, dtype=wide),
    )


def _grad_empty(
    grad: Tensor,
    x: Tensor,
    trace: Tensor,
    iterates: Tensor,
    iterations: int,
    triu: bool,
    save: bool,
) -> Tensor:
    return torch.empty_like(x.flatten(2)).view(x.shape)


def _isqrt_cov(x: Tensor, iterations: int, triu: bool, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    if x.shape[0] == 0:
        return outputs(x, iterations, triu, save)
    flat = x.flatten(2)
    backend = registry.select("isqrt_cov", flat, iterations, triu, save)
    with no_autocast(x.device.type):
        return backend.forward(flat, iterations, triu, save)


def _isqrt_cov_backward(
    grad: Tensor,
    x: Tensor,
    trace: Tensor,
    iterates: Tensor,
    iterations: int,
    triu: bool,
    save: bool,
) -> Tensor:
    flat = x.flatten(2)
    if x.shape[0] == 0:
        return torch.empty_like(flat).view(x.shape)
    backend = registry.select("isqrt_cov", flat, iterations, triu, save)
    saved = (trace.contiguous(), iterates.contiguous())
    with no_autocast(x.device.type):
        found = backend.backward(grad.contiguous(), flat, *saved, iterations, triu, save)
    return found.view(x.shape)


def work(x: Tensor, call: Call) -> Work:
    batch, channels, positions = sizes(x)
    plan = newton_schulz_plan(channels, positions, call.iterations, x.dtype, call.save)
    by_positions = plan.side == "positions" and not call.literal
    n, m = (positions, channels) if by_positions else (channels, positions)
    size, wide = x.element_size(), accumulation_dtype(x.dtype).itemsize
    root = batch * (channels * (channels + 1) // 2 if call.triu else channels**2) * size
    moved = x.numel() * size + root + wide * batch * (1 + plan.slots * n * n)

    algorithm, (iterate, differentiate) = iteration_work(n, call, by_positions, plan.slots > 0)
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


def _operations(x: Tensor, iterations: int, triu: bool, save: bool) -> tuple[int, int]:
    literal = literally("isqrt_cov", x, iterations, triu, save)
    return work(x, Call(iterations, triu=triu, save=save, literal=literal)).operations


register(
    "isqrt_cov(Tensor x, int iterations, bool triu, bool save) -> "
    "(Tensor root, Tensor trace, Tensor iterates)",
    kernel=_isqrt_cov,
    fake=outputs,
    vmap=folded("isqrt_cov"),
    operations=lambda x, iterations, triu, save: _operations(x, iterations, triu, save)[0],
)
register(
    "isqrt_cov_backward(Tensor grad, Tensor x, Tensor trace, Tensor iterates, int iterations, "
    "bool triu, bool save) -> Tensor",
    kernel=_isqrt_cov_backward,
    fake=_grad_empty,
    vmap=folded("isqrt_cov_backward"),
    operations=lambda grad, x, trace, iterates, iterations, triu, save: _operations(
        x, iterations, triu, save
    )[1],
)
