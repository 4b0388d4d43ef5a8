"""newton_schulz_roots in plain PyTorch: the merged steps of Z alone, and Y = A Z.

The gradients of both roots meet in one derivative of the polynomial
(csrc/cpu/ops/newton_schulz_roots_kernels.cpp).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from best_eager.newton_schulz_sqrt import derivative, iterate, unit_trace


def newton_schulz_roots(a: Tensor, iterations: int = 5) -> tuple[Tensor, Tensor]:
    """The square root of a symmetric a (B, D, D) and its inverse, differentiable once."""
    return _BestEager.apply(a, iterations)


class _BestEager(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
        w, trace = unit_trace(a)
        rest, ctx.steps = iterate(w, iterations, True)
        z, power = 1.5**iterations, trace.sqrt()
        root = torch.baddbmm(w, w, rest, beta=z).mul_(power)
        inverse = rest.clone()
        inverse.diagonal(dim1=1, dim2=2).add_(z)
        ctx.z = z
        ctx.save_for_backward(trace, rest)
        return root, inverse.div_(power)

    @staticmethod
    def backward(ctx: Any, of_root: Tensor, of_inverse: Tensor) -> tuple[Tensor, None]:
        (trace, rest), w, z = ctx.saved_tensors, ctx.steps[0].w, ctx.z
        power = trace.sqrt()
        of_root = (of_root + of_root.mT).mul_(power / 2)
        half = torch.bmm(of_root, w)
        direction = (half + half.mT + (of_inverse + of_inverse.mT).div_(power)).mul_(0.5)
        inner = (direction * rest).sum((1, 2)) + z * direction.diagonal(dim1=1, dim2=2).sum(1)
        found = derivative(ctx.steps, direction, True)
        shift = -(inner / 2 + (found * w).sum((1, 2)))
        half = torch.bmm(of_root, rest)
        found = (half + half.mT).mul_(0.5).add_(of_root, alpha=z).add_(found)
        found.diagonal(dim1=1, dim2=2).add_(shift.unsqueeze(1))
        return found.div_(trace), None
