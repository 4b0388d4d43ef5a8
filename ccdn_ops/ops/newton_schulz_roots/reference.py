"""newton_schulz_roots in plain PyTorch: the literal coupled iteration."""

from __future__ import annotations

import torch
from torch import Tensor

from ccdn_ops.backends import registry
from ccdn_ops.backends.reference.autograd import gradients
from ccdn_ops.newton_schulz_plan import newton_schulz_plan
from ccdn_ops.ops.newton_schulz_sqrt.reference import iterates
from ccdn_ops.precision import accumulation_dtype, no_autocast


def newton_schulz_roots(
    a: Tensor, iterations: int = 5, norm: bool = False
) -> tuple[Tensor, Tensor]:
    """The square root of a (B, D, D) and its inverse, differentiable by autograd.

    Computed in float64 for float64 and in float32 for the others, under autocast too.
    """
    with no_autocast(a.device.type):
        root, inverse, _ = roots(a.to(accumulation_dtype(a.dtype)), iterations, norm)
        return root.to(a.dtype), inverse.to(a.dtype)


def roots(a: Tensor, iterations: int, norm: bool) -> tuple[Tensor, Tensor, Tensor]:
    """sqrt(c) Y_K(a / c), Z_K(a / c) / sqrt(c), and c, the trace of a or its Frobenius norm."""
    a = (a + a.mT) / 2
    trace = a.diagonal(dim1=1, dim2=2).sum(1)  # [B]
    divisor = torch.linalg.vector_norm(a, dim=(1, 2)) if norm else trace
    zero = divisor == 0
    safe = torch.where(zero, torch.ones_like(divisor), divisor)[:, None, None]
    y, z = coupled(a / safe, iterations)
    power = safe.sqrt() + (safe - safe)  # NaN for what overflows
    nothing = torch.zeros_like(a)
    root = torch.where(zero[:, None, None], nothing, power * y)
    return root, torch.where(zero[:, None, None], nothing, z / power), divisor


def coupled(a: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Y_K and Z_K of a (B, D, D): Y_0 = a, Z_0 = 1;  P = (3 - Z Y) / 2,  Y <- Y P,  Z <- P Z.

    The first step knows that Z is 1, which leaves 3 K - 2 products: 13 for K = 5.
    """
    eye3 = 3 * torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    p = 0.5 * (eye3 - a)
    y, z = a @ p, p
    for _ in range(1, iterations):
        p = 0.5 * (eye3 - z @ y)
        y, z = y @ p, p @ z
    return y, z


def _forward(
    a: Tensor, iterations: int, norm: bool, save: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    wide = a.to(accumulation_dtype(a.dtype))
    root, inverse, divisor = roots(wide, iterations, norm)
    plan = newton_schulz_plan(a.shape[1], None, iterations, a.dtype, save, roots=True)
    if plan.slots:
        saved = iterates((wide + wide.mT) / 2, divisor, iterations, plan)
    else:
        saved = wide.new_empty(plan.saved_shape(len(a), a.shape[1]))
    return root.to(a.dtype), inverse.to(a.dtype), divisor, saved


def _backward(
    grad_root: Tensor | None,
    grad_inverse: Tensor | None,
    a: Tensor,
    divisor: Tensor,
    iterates: Tensor,
    iterations: int,
    norm: bool,
    save: bool,
) -> Tensor:
    def literal(a: Tensor) -> tuple[Tensor, Tensor]:
        return newton_schulz_roots(a, iterations, norm)

    (found,) = gradients(literal, [a], [grad_root, grad_inverse])
    return found.contiguous()


registry.register("newton_schulz_roots", backend="reference", forward=_forward, backward=_backward)
