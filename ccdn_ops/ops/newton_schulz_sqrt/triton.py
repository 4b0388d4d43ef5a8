"""newton_schulz_sqrt in Triton; the kernels and their napkin are in triton_kernels.py.

The steps are in newton_schulz.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ccdn_ops.backends import registry
from ccdn_ops.backends.triton.launcher import supports
from ccdn_ops.backends.triton.matrices import (
    empty_matrix,
    or_zero,
    per_sample,
    symmetrise,
)
from ccdn_ops.backends.triton.newton_schulz import (
    LIVE,
    Slots,
    empty_slots,
    iterate,
    newton_schulz_steps,
    root_gradient,
    write_rows,
)
from ccdn_ops.newton_schulz_plan import newton_schulz_plan


def _forward(a: Tensor, iterations: int, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    batch, n, _ = a.shape
    plan = newton_schulz_plan(n, None, iterations, a.dtype, save)
    steps = newton_schulz_steps(iterations, polynomial=False)
    iterates = a.new_empty(plan.saved_shape(batch, n), dtype=torch.float32)
    wide = torch.float64 if plan.wide else torch.float32
    m = Slots(iterates) if plan.slots else empty_slots(a, n, min(steps.slots, LIVE), wide)
    trace = a.diagonal(dim1=1, dim2=2).sum(1, dtype=torch.float64).float()
    _normalised(a, trace, m)
    iterate(steps, m)
    root = torch.empty_like(a)
    write_rows(m[steps.result], per_sample(trace, trace.double().sqrt(), 0.0), root)
    return root, trace, iterates


def _normalised(a: Tensor, trace: Tensor, m: Slots) -> None:
    symmetrise(a, m[0], scale=or_zero(trace, 1 / trace.double()))


def _backward(
    grad: Tensor, a: Tensor, trace: Tensor, iterates: Tensor, iterations: int, save: bool
) -> Tensor:
    n = a.shape[1]
    plan = newton_schulz_plan(n, None, iterations, a.dtype, save)
    steps = newton_schulz_steps(iterations, polynomial=False)
    wide = torch.float64 if plan.wide else torch.float32
    m = Slots(iterates)
    if not iterates.shape[1]:
        m = empty_slots(a, n, steps.slots, wide)
        _normalised(a, trace, m)
        iterate(steps, m)
    direction = empty_matrix(a, n, wide)
    symmetrise(grad, direction)
    found, scale, shift = root_gradient(steps, m, direction, trace)
    grad_a = torch.empty_like(a)
    write_rows(found, per_sample(trace, scale, shift), grad_a)
    return grad_a


registry.register(
    "newton_schulz_sqrt", backend="triton", forward=_forward, backward=_backward, supports=supports
)
