"""newton_schulz_sqrt in plain PyTorch: merged steps, and the derivative as the gradient.

Two coupled steps are one with fewer products (ccdn_ops/newton_schulz_plan.py), each a baddbmm. The
gradient of <G, f(A)> is the derivative of f at A in the direction of the symmetric part of G; that
of a square is a product and its transpose.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


def newton_schulz_sqrt(a: Tensor, iterations: int = 5) -> Tensor:
    """The square root of a symmetric a (B, D, D), differentiable once."""
    return _BestEager.apply(a, iterations)


class Step(NamedTuple):
    """One step (x is None) or two: the matrices of newton_schulz_plan.py."""

    w: Tensor
    y: Tensor | None  # None: Z - z 1 before the first step
    z: float
    e: Tensor | None = None
    x: Tensor | None = None
    v: Tensor | None = None


def iterate(w: Tensor, iterations: int, polynomial: bool) -> tuple[Tensor, list[Step]]:
    """Y_K of w (B, n, n), trace 1, or with `polynomial` R of q_K(w) = 1.5^K + R; and the steps."""
    y: Tensor | None = None if polynomial else w
    z, steps = 1.0, []
    for k in range(0, iterations, 2):
        first, last = k == 0, k + 2 >= iterations
        if k + 1 == iterations:
            steps.append(Step(w, y, z))
            if y is None:
                return -0.5 * w, steps
            start = 1.5 * y - (0.5 * z) * w if polynomial else y
            beta = 1.0 if polynomial else 1.5
            return torch.baddbmm(start, y, w, beta=beta, alpha=-0.5), steps
        e = torch.baddbmm(w, w, w, beta=-4.5)
        x = (e * (6.75 / 16)).sub_(w, alpha=8.625 / 16).baddbmm_(e, e, alpha=1 / 16)
        v = None
        if not last or (first and not polynomial):
            v = torch.baddbmm(w, w, x, beta=2.25)
        steps.append(Step(w, y, z, e, x, v))
        if first:
            y = x if polynomial else v
        elif polynomial:
            assert y is not None
            y = (2.25 * y).add_(x, alpha=z).baddbmm_(y, x)
        else:
            y = torch.baddbmm(y, y, x, beta=2.25)
        if not last:
            assert v is not None
            w = torch.baddbmm(v, v, x, beta=2.25)
        z *= 2.25
    assert y is not None
    return y, steps


def derivative(steps: list[Step], direction: Tensor, polynomial: bool) -> Tensor:
    """That of the result in a symmetric direction (B, n, n)."""
    dw = direction
    dy: Tensor | None = None if polynomial else direction
    for k, (w, y, z, e, x, v) in enumerate(steps):
        if x is None:
            if dy is None:
                return -0.5 * dw
            start = 1.5 * dy
            if polynomial:
                start.sub_(dw, alpha=0.5 * z)
            return start.baddbmm_(dy, w, alpha=-0.5).baddbmm_(y, dw, alpha=-0.5)
        half = torch.bmm(dw, w)
        de = (half + half.mT).sub_(dw, alpha=4.5)
        half = torch.bmm(de, e)
        dx = (half + half.mT).add_(de, alpha=6.75).sub_(dw, alpha=8.625).div_(16)
        dv = None
        if v is not None:
            dv = (2.25 * dw).baddbmm_(dw, x).baddbmm_(w, dx)
        if k == 0:
            dy = dx if polynomial else dv
        else:
            assert dy is not None
            start = 2.25 * dy
            if polynomial:
                start.add_(dx, alpha=z)
            dy = start.baddbmm_(dy, x).baddbmm_(y, dx)
        if k + 1 < len(steps):
            assert dv is not None
            dw = (2.25 * dv).baddbmm_(dv, x).baddbmm_(v, dx)
    assert dy is not None
    return dy


def root_gradient(grad: Tensor, trace: Tensor, result: Tensor, steps: list[Step]) -> Tensor:
    """That of sqrt(tr) Y_K(S / tr), as the gradient with respect to S; grad is symmetric."""
    inner = (grad * result).sum((1, 2), keepdim=True)
    found = derivative(steps, grad, False)
    shift = inner / 2 - (found * steps[0].w).sum((1, 2), keepdim=True)
    found.diagonal(dim1=1, dim2=2).add_(shift.squeeze(2))
    return found.div_(trace.sqrt())


def unit_trace(a: Tensor) -> tuple[Tensor, Tensor]:
    """a / tr a and tr a (B, 1, 1)."""
    trace = a.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
    return a / trace, trace


class _BestEager(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, iterations: int) -> Tensor:
        w, trace = unit_trace(a)
        result, ctx.steps = iterate(w, iterations, False)
        ctx.save_for_backward(trace, result)
        return result * trace.sqrt()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        trace, result = ctx.saved_tensors
        return root_gradient((grad + grad.mT).mul_(0.5), trace, result, ctx.steps), None
