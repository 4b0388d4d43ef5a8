"""dual_squeeze in plain PyTorch.

The algorithm is that of the kernels (ccdn_ops/plans.py): the smaller side, the Chebyshev series
instead of the iteration, the gradient by hand through thin factors. What is left to the kernels is
their arithmetic: half of the symmetric matrix, fused passes, and vectors in double, where this one
takes all in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ccdn_ops.plans import DualSqueezePlan, dual_squeeze_plan


def dual_squeeze(x: Tensor, iterations: int = 5) -> tuple[Tensor, Tensor]:
    """Both squeezes of x (B, D, N) float32 -> two (B, D), differentiable once."""
    return _BestEager.apply(x, iterations)


def _chebyshev(m: Tensor, start: Tensor, terms: int) -> Tensor:
    """T_j(m) start for j < terms: m (B, n, n), start (B, n, k) -> (terms, B, n, k)."""
    out = start.new_empty(terms, *start.shape)
    out[0] = start
    torch.bmm(m, start, out=out[1])
    for j in range(2, terms):
        torch.baddbmm(out[j - 2], m, out[j - 1], beta=-1, alpha=2, out=out[j])
    return out


def _combine(table: Tensor, vectors: Tensor) -> Tensor:
    """table (r, terms) times vectors (terms, B, n) -> (r, B, n)."""
    return (table @ vectors.flatten(1)).unflatten(1, vectors.shape[1:])


class _BestEager(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
        batch, channels, positions = x.shape
        plan = dual_squeeze_plan(channels, positions, iterations, "float32", "cpu")
        table = torch.from_numpy(plan.table.astype("float32"))
        mean = x.mean(2)
        xc = x - mean.unsqueeze(2)
        by_channels = plan.side == "channels"
        m = torch.bmm(xc, xc.mT) if by_channels else torch.bmm(xc.mT, xc)
        total = m.diagonal(dim1=1, dim2=2).sum(1)  # N tr S
        m.mul_((2 / total)[:, None, None]).diagonal(dim1=1, dim2=2).sub_(1)
        start = x.new_ones(batch, channels) if by_channels else xc.sum(1)
        t = _chebyshev(m, start.unsqueeze(2), plan.terms).squeeze(3)
        y = _combine(table[:1], t)[0]
        scale = (total / positions).sqrt() / channels
        if by_channels:
            second = y * scale.unsqueeze(1)
        else:
            second = torch.bmm(xc, y.unsqueeze(2)).squeeze(2) * (scale / total).unsqueeze(1)
        ctx.save_for_backward(xc, m, total, scale, start, table)
        ctx.plan = plan
        return mean, second

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grad_first, g = grads
        xc, m, total, scale, start, table = ctx.saved_tensors
        plan: DualSqueezePlan = ctx.plan
        by_channels = plan.side == "channels"
        outer = scale / total  # s a
        if by_channels:
            adjoint = g * scale.unsqueeze(1)
        else:
            adjoint = torch.bmm(xc.mT, g.unsqueeze(2)).squeeze(2) * outer.unsqueeze(1)
        both = _chebyshev(m, torch.stack((start, adjoint), 2), plan.terms)
        t, s = both.unbind(3)
        rank = plan.rank
        left, right = table[2 : 2 + rank], table[2 + rank :]
        from_t = _combine(torch.cat((table[:2], right)), t.contiguous())
        from_s = _combine(torch.cat((table[:1], left)), s.contiguous())
        alpha = -(adjoint * from_t[1]).sum(1) / total
        u, v = from_s[1:].permute(1, 2, 0), from_t[2:].permute(1, 2, 0)  # [B, n, rank]
        twice = (2 / total)[:, None, None]
        near, far = torch.cat((v, u), 2), torch.cat((twice * u, twice * v), 2)
        if plan.dense_gradient:
            q = torch.bmm(far, near.mT)
            q.diagonal(dim1=1, dim2=2).add_(alpha.unsqueeze(1))
            dx = torch.bmm(q, xc) if by_channels else torch.bmm(xc, q)
        else:
            product = torch.bmm(far, torch.bmm(near.mT, xc)) if by_channels else None
            if product is None:
                product = torch.bmm(torch.bmm(xc, near), far.mT)
            dx = product.addcmul_(xc, alpha[:, None, None])
        if not by_channels:
            dx.baddbmm_((g * outer.unsqueeze(1)).unsqueeze(2), from_t[0].unsqueeze(1))
            dx += from_s[0].unsqueeze(1)
        dx += (grad_first / xc.shape[2]).unsqueeze(2)
        return dx, None
