"""isqrt_cov in plain PyTorch: the covariance matrix and the literal coupled iteration.

The yardstick for the tests and the baseline of the benchmarks: no small side, autograd for the
gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ccdn_ops.backends import registry
from ccdn_ops.backends.reference.autograd import gradients
from ccdn_ops.newton_schulz_plan import newton_schulz_plan
from ccdn_ops.ops.covariance_pool.reference import covariance
from ccdn_ops.ops.newton_schulz_sqrt.reference import iterates, root
from ccdn_ops.precision import no_autocast


def isqrt_cov(x: Tensor, iterations: int = 5, triu: bool = False) -> Tensor:
    """The square root of the covariance of x (B, D, H, W) or (B, D, N), by autograd.

    (B, D, D), or with `triu` its upper triangle row by row, (B, D (D + 1) / 2). Computed in float64
    for float64 and in float32 for the others, under autocast too.
    """
    with no_autocast(x.device.type):
        return _literal(x.flatten(2), iterations, triu)


def _literal(x: Tensor, iterations: int, triu: bool) -> Tensor:
    found = root(covariance(x)[0], iterations)[0].to(x.dtype)
    if not triu:
        return found
    rows, columns = torch.triu_indices(*found.shape[1:], device=x.device)
    return found[:, rows, columns]


def _forward(x: Tensor, iterations: int, triu: bool, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    batch, channels, positions = x.shape
    matrix, trace, centred = covariance(x)
    plan = newton_schulz_plan(channels, positions, iterations, x.dtype, save)
    if plan.side == "positions":
        matrix = centred.mT @ centred / positions
    if plan.slots:
        saved = iterates(matrix, trace, iterations, plan)
    else:
        saved = matrix.new_empty(plan.saved_shape(batch, matrix.shape[1]))
    return _literal(x, iterations, triu), trace, saved


def _backward(
    grad: Tensor,
    x: Tensor,
    trace: Tensor,
    iterates: Tensor,
    iterations: int,
    triu: bool,
    save: bool,
) -> Tensor:
    (found,) = gradients(lambda x: _literal(x, iterations, triu), [x], [grad])
    return torch.empty_like(x).copy_(found)


registry.register("isqrt_cov", backend="reference", forward=_forward, backward=_backward)
