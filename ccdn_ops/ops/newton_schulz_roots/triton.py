"""newton_schulz_roots in Triton, with the kernels of newton_schulz_sqrt.

The steps are in newton_schulz.py, and csrc/cpu/ops/newton_schulz_roots_kernels.cpp has the
equations of the gradient.
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
    derivative,
    empty_slots,
    inner_product,
    iterate,
    newton_schulz_steps,
    symmetric_products,
    write_rows,
)
from ccdn_ops.newton_schulz_plan import newton_schulz_plan
from ccdn_ops.ops.newton_schulz_roots.spec import Outputs


def _forward(a: Tensor, iterations: int, norm: bool, save: bool) -> Outputs:
    batch, n, _ = a.shape
    plan = newton_schulz_plan(n, None, iterations, a.dtype, save, roots=True)
    steps = newton_schulz_steps(iterations, polynomial=True)
    iterates = a.new_empty(plan.saved_shape(batch, n), dtype=torch.float32)
    wide = torch.float64 if plan.wide else torch.float32
    m = Slots(iterates) if plan.slots else empty_slots(a, n, min(steps.slots, LIVE), wide)
    if norm:
        symmetrise(a, m[0])
        divisor = inner_product(m[0], m[0]).sqrt().float()
    else:
        divisor = a.diagonal(dim1=1, dim2=2).sum(1, dtype=torch.float64).float()
    _normalised(a, divisor, m[0])
    iterate(steps, m)
    first, rest, power = m[0], m[steps.result], divisor.double().sqrt()
    if steps.slots > m.store.shape[1]:  # its slot has been used again
        first = empty_matrix(a, n, wide)
        _normalised(a, divisor, first)
    root, inverse = torch.empty_like(a), torch.empty_like(a)
    y = symmetric_products([(first, rest)], 1.0, empty_matrix(a, n, wide), (steps.z, first))
    write_rows(y, per_sample(divisor, or_zero(divisor, power), 0.0), root)
    scale, shift = or_zero(divisor, 1 / power), or_zero(divisor, steps.z / power)
    write_rows(rest, per_sample(divisor, scale, shift), inverse)
    return root, inverse, divisor, iterates


def _normalised(a: Tensor, divisor: Tensor, out: Tensor) -> None:
    symmetrise(a, out, scale=or_zero(divisor, 1 / divisor.double()))


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
    n = a.shape[1]
    plan = newton_schulz_plan(n, None, iterations, a.dtype, save, roots=True)
    steps = newton_schulz_steps(iterations, polynomial=True)
    wide = torch.float64 if plan.wide else torch.float32
    m = Slots(iterates)
    if not iterates.shape[1]:
        m = empty_slots(a, n, steps.slots, wide)
        _normalised(a, divisor, m[0])
        iterate(steps, m)
    first, rest, power = m[0], m[steps.result], divisor.double().sqrt()
    of_root = direction = None
    if grad_inverse is not None:
        direction = empty_matrix(a, n, wide)
        symmetrise(grad_inverse, direction, scale=or_zero(divisor, 1 / power))
    if grad_root is not None:
        of_root = empty_matrix(a, n, wide)
        symmetrise(grad_root, of_root, scale=or_zero(divisor, power))
        more = None if direction is None else (1.0, direction)
        pairs = [(of_root, first), (first, of_root)]
        direction = symmetric_products(pairs, 0.5, torch.empty_like(of_root), more)
    assert direction is not None
    inner = inner_product(rest, direction, steps.z)
    found = derivative(steps, m, direction)
    scale = or_zero(divisor, 1 / divisor.double())
    shift = or_zero(divisor, -(inner / 2 + inner_product(found, first)) / divisor.double())
    if of_root is not None:
        pairs = [(of_root, rest), (rest, of_root)]
        out = torch.empty_like(found)
        found = symmetric_products(pairs, 0.5, out, (steps.z, of_root), (1.0, found))
    if norm:
        by, along = (x.to(wide)[:, None, None, None] for x in (scale, shift))
        found = torch.addcmul(found * by, first, along)
        scale, shift = or_zero(divisor, torch.ones_like(scale)), torch.zeros_like(shift)
    grad_a = torch.empty_like(a)
    write_rows(found, per_sample(divisor, scale, shift), grad_a)
    return grad_a


registry.register(
    "newton_schulz_roots",
    backend="triton",
    forward=_forward,
    backward=_backward,
    supports=supports,
)
