"""newton_schulz_sqrt in plain PyTorch: the literal coupled iteration."""

from __future__ import annotations

import torch
from torch import Tensor

from ccdn_ops.backends import registry
from ccdn_ops.backends.reference.autograd import gradients
from ccdn_ops.newton_schulz_plan import NewtonSchulzPlan, newton_schulz_plan
from ccdn_ops.ops.dual_squeeze.reference import newton_schulz
from ccdn_ops.precision import accumulation_dtype, no_autocast


def newton_schulz_sqrt(a: Tensor, iterations: int = 5) -> Tensor:
    """The square root of a (B, D, D), differentiable by autograd.

    Computed in float64 for float64 and in float32 for the others, under autocast too.
    """
    with no_autocast(a.device.type):
        return root(a.to(accumulation_dtype(a.dtype)), iterations)[0].to(a.dtype)


def root(a: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """sqrt(tr) Y_K(a / tr) and tr = tr a, for a symmetric a or one that counts as it."""
    a = (a + a.mT) / 2
    trace = a.diagonal(dim1=1, dim2=2).sum(1)  # [B]
    zero = trace == 0
    safe = torch.where(zero, torch.ones_like(trace), trace)[:, None, None]
    found = safe.sqrt() * newton_schulz(a / safe, iterations)
    return torch.where(zero[:, None, None], torch.zeros_like(found), found), trace


def iterates(a: Tensor, trace: Tensor, iterations: int, plan: NewtonSchulzPlan) -> Tensor:
    """What a forward pass saves for another backend's backward pass: newton_schulz_plan.py."""
    n = a.shape[-1]
    kept = [a / torch.where(trace == 0, torch.ones_like(trace), trace)[:, None, None]]
    w, y, z = kept[0], kept[0], 1.0
    polynomial = plan.polynomial
    if polynomial:
        y = torch.zeros_like(w)
    for step in range(0, iterations, 2):
        if step + 1 == iterations:
            kept.append(1.5 * y - 0.5 * (y @ w + (z * w if polynomial else 0)))
            break
        first, last = step == 0, step + 2 == iterations
        e = w @ w - 4.5 * w
        x = (e @ e + 6.75 * e - 8.625 * w) / 16
        v = w @ x + 2.25 * w
        kept += [e, x]
        if not last or (first and not polynomial):
            kept.append(v)
        y = y @ x + 2.25 * y + (z * x if polynomial else 0)
        if not first:
            kept.append(y)
        w, z = v @ x + 2.25 * v, 2.25 * z
        if not last:
            kept.append(w)
    room = -n % plan.panel
    stacked = torch.nn.functional.pad(torch.stack(kept[: plan.slots], 1), (0, room))
    panels = stacked.unflatten(-1, (-1, plan.panel)).movedim(-2, -3)
    return torch.where((trace == 0)[:, None, None, None, None], 0, panels).contiguous()


def _forward(a: Tensor, iterations: int, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    wide = a.to(accumulation_dtype(a.dtype))
    found, trace = root(wide, iterations)
    plan = newton_schulz_plan(a.shape[1], None, iterations, a.dtype, save)
    if plan.slots:
        saved = iterates((wide + wide.mT) / 2, trace, iterations, plan)
    else:
        saved = wide.new_empty(plan.saved_shape(len(a), a.shape[1]))
    return found.to(a.dtype), trace, saved


def _backward(
    grad: Tensor, a: Tensor, trace: Tensor, iterates: Tensor, iterations: int, save: bool
) -> Tensor:
    def literal(a: Tensor) -> Tensor:
        return root(a.to(accumulation_dtype(a.dtype)), iterations)[0].to(a.dtype)

    (found,) = gradients(literal, [a], [grad])
    return found.contiguous()


registry.register("newton_schulz_sqrt", backend="reference", forward=_forward, backward=_backward)
