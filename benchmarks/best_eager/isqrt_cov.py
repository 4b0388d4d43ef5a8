"""isqrt_cov in plain PyTorch: on the smaller side, as the kernels do it.

With fewer positions than channels M = Xc^T Xc / (N tr) is iterated, and the root is c Xc Q Xc^T, Q
= q_K(M), c = 1 / (N sqrt(tr)). With G the symmetric upstream gradient, H = G Xc and dM the
derivative of q_K at M in the direction of dQ = c Xc^T H, the gradient is

    2 c H Q + (2 / (N tr)) Xc (dM - (<Q, dQ> / 2 + <M, dM>) 1).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from best_eager.covariance_pool import covariance, features_gradient
from best_eager.newton_schulz_sqrt import derivative, iterate, root_gradient, unit_trace
from ccdn_ops.newton_schulz_plan import newton_schulz_plan


def isqrt_cov(x: Tensor, iterations: int = 5) -> Tensor:
    """The square root (B, D, D) of the covariance of x (B, D, N), differentiable once."""
    _, channels, positions = x.shape
    plan = newton_schulz_plan(channels, positions, iterations, x.dtype, True)
    side = _ByPositions if plan.side == "positions" else _ByChannels
    return side.apply(x, iterations)


class _ByChannels(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, iterations: int) -> Tensor:
        matrix, centred = covariance(x)
        w, trace = unit_trace(matrix)
        result, ctx.steps = iterate(w, iterations, False)
        ctx.save_for_backward(centred, trace, result)
        return result * trace.sqrt()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        centred, trace, result = ctx.saved_tensors
        found = root_gradient((grad + grad.mT).mul_(0.5), trace, result, ctx.steps)
        return features_gradient(found, centred), None


class _ByPositions(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, iterations: int) -> Tensor:
        positions = x.shape[2]
        centred = x - x.mean(2, keepdim=True)
        m, total = unit_trace(torch.bmm(centred.mT, centred))  # total = N tr
        q, ctx.steps = iterate(m, iterations, True)
        q.diagonal(dim1=1, dim2=2).add_(1.5**iterations)
        scale = (positions * total).rsqrt()  # c
        ctx.save_for_backward(centred, total, q, scale)
        return torch.bmm(centred * scale, torch.bmm(q, centred.mT))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        centred, total, q, scale = ctx.saved_tensors
        m = ctx.steps[0].w
        h = torch.bmm((grad + grad.mT).mul_(0.5), centred).mul_(scale)  # c G Xc
        dq = torch.bmm(centred.mT, h)
        dm = derivative(ctx.steps, dq, True)
        radial = (q * dq).sum((1, 2)) / 2 + (m * dm).sum((1, 2))
        dm.diagonal(dim1=1, dim2=2).sub_(radial.unsqueeze(1))
        return torch.bmm(h, q).mul_(2).baddbmm_(centred, dm * (2 / total)), None
