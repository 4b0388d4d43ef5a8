"""cocs_loss in plain PyTorch: through the sums S over the batch of the unit vectors.

Q = S S^T / B^2, and L = |Q|^2 / |diag Q|^2 - 1 is free of B.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def cocs_loss(*features: Tensor) -> Tensor:
    """The loss (L,) of levels (B, P, D), differentiable once."""
    return torch.stack([_BestEager.apply(level) for level in features])


class _BestEager(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, f: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(f, dim=2, keepdim=True)
        unit = f / norm
        s = unit.sum(0)  # [P, D]
        q = s @ s.mT
        every, own = q.square().sum(), q.diagonal().square().sum()
        ctx.save_for_backward(norm, unit, s, q, every, own)
        return every / own - 1

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        norm, unit, s, q, every, own = ctx.saved_tensors
        dq = q.clone()
        dq.diagonal().mul_(1 - every / own)
        ds = (dq @ s) * (4 * grad / own)
        along = (unit * ds).sum(2, keepdim=True)
        return torch.addcmul(ds, unit, along, value=-1).div_(norm)
