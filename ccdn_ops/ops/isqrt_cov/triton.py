"""isqrt_cov in Triton, in the kernels of matrices.py and newton_schulz_sqrt.

By channels the covariance S = Xc Xc^T / N is iterated: root = sqrt(tr) Y_K(S / tr). By positions
M = Xc^T Xc / (N tr) is, which has the same eigenvalues but for zeros, and

    root = c Xc Q Xc^T,  Q = q_K(M) = z 1 + R,  c = 1 / (N sqrt(tr)).

With G the upstream gradient made symmetric, H = G Xc and dQ = c Xc^T H, the gradient is

    dX = 2 c H Q + a Xc dM - a (<Q, dQ> / 2 + <M, dM>) Xc,  a = 2 / (N tr)

where dM is the derivative of q_K at M in the direction of dQ.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ccdn_ops.backends import registry
from ccdn_ops.backends.triton import features
from ccdn_ops.backends.triton.launcher import supports
from ccdn_ops.backends.triton.matrices import (
    PANEL,
    Operand,
    centred,
    empty_matrix,
    gram,
    multiply,
    or_zero,
    per_sample,
    plain,
    symmetrise,
)
from ccdn_ops.backends.triton.newton_schulz import (
    LIVE,
    Slots,
    Steps,
    derivative,
    empty_slots,
    inner_product,
    iterate,
    newton_schulz_steps,
    root_gradient,
    write_rows,
)
from ccdn_ops.newton_schulz_plan import NewtonSchulzPlan, newton_schulz_plan


class _Case(NamedTuple):
    """What a call is made of: n of the matrix and the length of the other axis, plan and steps."""

    n: int
    free: int
    by_positions: bool
    plan: NewtonSchulzPlan
    steps: Steps

    @property
    def wide(self) -> torch.dtype:
        return torch.float64 if self.plan.wide else torch.float32


def _case(x: Tensor, iterations: int, save: bool) -> _Case:
    _, channels, positions = x.shape
    plan = newton_schulz_plan(channels, positions, iterations, x.dtype, save)
    by_positions = plan.side == "positions"
    n, free = (positions, channels) if by_positions else (channels, positions)
    return _Case(n, free, by_positions, plan, newton_schulz_steps(iterations, by_positions))


def _iterated(x: Tensor, xc: Operand, trace: Tensor, case: _Case, m: Slots) -> None:
    scale = or_zero(trace, 1 / (x.shape[2] * trace.double()))
    gram(xc, xc, scale, m[0], case.n, case.free, panel=PANEL, wide=case.plan.wide)
    iterate(case.steps, m)


def _forward(x: Tensor, iterations: int, triu: bool, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    batch, channels, positions = x.shape
    case = _case(x, iterations, save)
    mean, rest, squares = features.means(x)
    trace = features.traces(mean, squares, positions)
    xc = centred(x, mean, rest, case.by_positions)
    iterates = x.new_empty(case.plan.saved_shape(batch, case.n), dtype=torch.float32)
    m = Slots(iterates)
    if not case.plan.slots:
        m = empty_slots(x, case.n, min(case.steps.slots, LIVE), case.wide)
    _iterated(x, xc, trace, case, m)
    root = x.new_empty(
        (batch, channels * (channels + 1) // 2) if triu else (batch, channels, channels)
    )
    result, deviation = m[case.steps.result], trace.double().sqrt()
    if not case.by_positions:
        write_rows(result, per_sample(trace, deviation, 0.0), root, triangle=triu)
        return root, trace, iterates
    expanded = x.new_empty(x.shape, dtype=case.wide)  # Xc Q
    factors = per_sample(trace, 1.0, case.steps.z, 0.0, 0.0)
    multiply((result, xc), None, factors, plain(expanded, by_positions=True))
    left, right = centred(x, mean, rest, by_positions=False), plain(expanded, by_positions=False)
    scale = or_zero(trace, 1 / (positions * deviation))
    panel, wide = -1 if triu else 0, case.plan.wide
    gram(left, right, scale, root, channels, positions, panel=panel, wide=wide)
    return root, trace, iterates


def _backward(
    grad: Tensor,
    x: Tensor,
    trace: Tensor,
    iterates: Tensor,
    iterations: int,
    triu: bool,
    save: bool,
) -> Tensor:
    positions = x.shape[2]
    case = _case(x, iterations, save)
    mean, rest, _ = features.means(x)
    xc, grad_x = centred(x, mean, rest, case.by_positions), torch.empty_like(x)
    m = Slots(iterates)
    if not iterates.shape[1]:
        m = empty_slots(x, case.n, case.steps.slots, case.wide)
        _iterated(x, xc, trace, case, m)
    direction = empty_matrix(x, x.shape[1], case.wide)
    symmetrise(grad, direction, triangle=triu)
    out = plain(grad_x, case.by_positions)
    if not case.by_positions:
        found, scale, shift = root_gradient(case.steps, m, direction, trace)
        factors = per_sample(trace, 2 * scale / positions, 2 * shift / positions, 0.0, 0.0)
        multiply((found, xc), None, factors, out)
        return grad_x

    wide_trace, z = trace.double(), case.steps.z
    c = or_zero(trace, 1 / (positions * wide_trace.sqrt()))
    a = or_zero(trace, 2 / (positions * wide_trace))
    h = x.new_empty(x.shape, dtype=case.wide)  # G Xc
    multiply(
        (direction, centred(x, mean, rest, by_positions=False)),
        None,
        per_sample(trace, 1.0, 0.0, 0.0, 0.0),
        plain(h, by_positions=False),
    )
    dq, by_h = empty_matrix(x, case.n, case.wide), plain(h, by_positions=True)
    gram(xc, by_h, c, dq, case.n, case.free, panel=PANEL, wide=case.plan.wide)
    result = m[case.steps.result]
    inner = inner_product(result, dq, shift=z)
    dm = derivative(case.steps, m, dq)
    radial = -a * (inner / 2 + inner_product(m[0], dm))
    multiply((dm, xc), (result, by_h), per_sample(trace, a, radial, 2 * c, 2 * c * z), out)
    return grad_x


registry.register(
    "isqrt_cov", backend="triton", forward=_forward, backward=_backward, supports=supports
)
