"""The same matrix function through torch.linalg.eigh: the K-th iterate's polynomial of eigenvalues.

The gradient multiplies in the eigenvectors' basis by divided differences, which the iteration gives
by the product rule (fg)[s, t] = f[s, t] g(t) + f(s) g[s, t]: no difference of eigenvalues is
divided by, so equal ones do no harm.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from best_eager.covariance_pool import covariance_pool
from best_eager.newton_schulz_sqrt import unit_trace


def eigh_sqrt(a: Tensor, iterations: int = 5) -> Tensor:
    """newton_schulz_sqrt of a symmetric a (B, D, D), differentiable once."""
    return _Eigh.apply(a, iterations)


def eigh_isqrt_cov(x: Tensor, iterations: int = 5) -> Tensor:
    """isqrt_cov of x (B, D, N), differentiable once."""
    return eigh_sqrt(covariance_pool(x), iterations)


def _polynomial(t: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """h(t) = t q_K(t) of eigenvalues (B, n), and its divided differences (B, n, n)."""

    def times(f: tuple[Tensor, Tensor], g: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return f[0] * g[0], f[1] * g[0].unsqueeze(1) + f[0].unsqueeze(2) * g[1]

    one = torch.ones_like(t).unsqueeze(1).expand(-1, t.shape[1], -1)
    w = y = t, one
    for _ in range(iterations):
        p = (3 - w[0]) / 2, w[1] / -2
        y, w = times(y, p), times(w, times(p, p))
    return y


class _Eigh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, iterations: int) -> Tensor:
        w, trace = unit_trace(a)
        values, vectors = torch.linalg.eigh(w)
        root, differences = _polynomial(values, iterations)
        ctx.save_for_backward(trace, values, root, vectors, differences)
        return torch.bmm(vectors * (root.unsqueeze(1) * trace.sqrt()), vectors.mT)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        trace, values, root, vectors, differences = ctx.saved_tensors
        inside = vectors.mT @ ((grad + grad.mT).mul_(0.5) @ vectors)
        own = inside.diagonal(dim1=1, dim2=2)
        found = inside * differences
        slopes = found.diagonal(dim1=1, dim2=2)
        shift = (own * root).sum(1) / 2 - (slopes * values).sum(1)
        slopes.add_(shift.unsqueeze(1))
        return vectors @ (found / trace.sqrt()) @ vectors.mT, None
