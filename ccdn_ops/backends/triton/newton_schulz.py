"""The Newton-Schulz iteration and its derivative, in symmetric products (newton_schulz_plan.py).

The gradient of <G, f(A)> for a function f of a symmetric matrix is the derivative of f at A in the
direction of G, because that map is its own adjoint. So the backward pass runs the steps forward
with their derivatives: d(M N) = dM N + M dN is symmetric too, half of a product of twice the depth.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ccdn_ops.backends.triton import launcher
from ccdn_ops.backends.triton.launcher import blocks, interpreted
from ccdn_ops.backends.triton.matrices import (
    PANEL,
    half,
    or_zero,
    precision,
    product_of,
    tile_of,
)

# No matrix is needed seven slots after its own, so few slots suffice when none is kept.
LIVE = 7


@dataclass(frozen=True)
class Step:
    """One step, or two at once. Numbers are the slots of matrices; None: no such matrix.

    w, e, x, v: of two steps, v where it is needed; y and y_out: Y (or R) before and after, y is w
    where Y = W and None where R = 0; w_out where a step follows; z: Z = z 1 + R before.
    """

    two: bool
    w: int
    y: int | None
    y_out: int
    z: float
    e: int = -1
    x: int = -1
    v: int | None = None
    w_out: int | None = None


@dataclass(frozen=True)
class Steps:
    """polynomial: of Z_K = q_K(A) = z 1 + R, in `result`; else of Y_K = A q_K(A). Slot 0 is A."""

    polynomial: bool
    steps: tuple[Step, ...]
    slots: int
    z: float

    @property
    def result(self) -> int:
        return self.steps[-1].y_out


@lru_cache
def newton_schulz_steps(iterations: int, polynomial: bool) -> Steps:
    """What csrc/common/newton_schulz_steps.h says."""
    steps: list[Step] = []
    next_slot, done, z = 1, 0, 1.0
    w: int = 0
    y: int | None = None if polynomial else 0
    while done < iterations:
        if done + 1 == iterations:
            steps.append(Step(False, w, y, next_slot, z))
            return Steps(polynomial, tuple(steps), next_slot + 1, 1.5 * z)
        first, last = done == 0, done + 2 == iterations
        e, x = next_slot, next_slot + 1
        next_slot += 2
        v = w_out = None
        if not last or (first and not polynomial):
            v, next_slot = next_slot, next_slot + 1
        if not first:
            y_out, next_slot = next_slot, next_slot + 1
        else:
            y_out = x if v is None or polynomial else v
        if not last:
            w_out, next_slot = next_slot, next_slot + 1
        steps.append(Step(True, w, y, y_out, z, e, x, v, w_out))
        w, y, z, done = w_out or 0, y_out, 2.25 * z, done + 2
    return Steps(polynomial, tuple(steps), next_slot, z)


class Slots:
    """Where the matrices of an iteration are, (B, count, panels, n, PANEL): all or the last few."""

    def __init__(self, store: Tensor) -> None:
        self.store = store

    def __getitem__(self, slot: int) -> Tensor:
        return self.store[:, slot % self.store.shape[1]]


def empty_slots(like: Tensor, n: int, count: int, dtype: torch.dtype) -> Slots:
    return Slots(like.new_empty(len(like), count, blocks(n, PANEL), n, PANEL, dtype=dtype))


def symmetric_products(
    pairs: list[tuple[Tensor, Tensor]],
    scale: float,
    out: Tensor,
    u: tuple[float, Tensor] | None = None,
    v: tuple[float, Tensor] | None = None,
) -> Tensor:
    """out = scale (the sum of the pairs' products) + a u + b v."""
    (left, right), (left2, right2) = pairs[0], pairs[-1]
    (a, u_matrix), (b, v_matrix) = u or (0.0, out), v or (0.0, out)
    n, wide = out.shape[-2], out.dtype == torch.float64
    tile = product_of(out, wide)
    matrices = (left, right, left2, right2, u_matrix, v_matrix, out)
    launcher.launch(
        launcher.kernels("newton_schulz_sqrt").symmetric_product, len(out) * half(n, tile["BLOCK"]),
        *matrices, n, scale, a, b, *(m.stride(0) for m in matrices),
        TWO=len(pairs) == 2, U=u is not None, V=v is not None,
        PANEL=PANEL, PRODUCT=precision(out.dtype), **tile,
    )  # fmt: skip
    return out


def iterate(plan: Steps, m: Slots) -> None:
    """Fills the slots from slot 0 on."""
    for s in plan.steps:
        w, y, out = m[s.w], None if s.y is None else m[s.y], m[s.y_out]
        if not s.two:
            if y is None:
                torch.mul(w, -0.5, out=out)
            else:
                more = (-0.5 * s.z, w) if plan.polynomial else None
                symmetric_products([(y, w)], -0.5, out, (1.5, y), more)
            return
        e, x = m[s.e], m[s.x]
        symmetric_products([(w, w)], 1.0, e, (-4.5, w))
        symmetric_products([(e, e)], 1 / 16, x, (6.75 / 16, e), (-8.625 / 16, w))
        if s.v is not None:
            symmetric_products([(w, x)], 1.0, m[s.v], (2.25, w))
        if s.y_out not in (s.x, s.v):
            assert y is not None
            symmetric_products([(y, x)], 1.0, out, (2.25, y), (s.z, x) if plan.polynomial else None)
        if s.w_out is not None:
            assert s.v is not None
            v = m[s.v]
            symmetric_products([(v, x)], 1.0, m[s.w_out], (2.25, v))


def derivative(plan: Steps, m: Slots, direction: Tensor) -> Tensor:
    """The derivative of the result in a direction (B, panels, n, PANEL)."""

    def new() -> Tensor:
        return torch.empty_like(direction)

    dw: Tensor | None = direction
    dy = None if plan.polynomial else direction
    for s in plan.steps:
        assert dw is not None
        w, y = m[s.w], None if s.y is None else m[s.y]
        if not s.two:
            if y is None:
                return torch.mul(dw, -0.5)
            assert dy is not None
            more = (-0.5 * s.z, dw) if plan.polynomial else None
            return symmetric_products([(dy, w), (y, dw)], -0.5, new(), (1.5, dy), more)
        e, x = m[s.e], m[s.x]
        de = symmetric_products([(dw, w), (w, dw)], 1.0, new(), (-4.5, dw))
        pairs = [(de, e), (e, de)]
        dx = symmetric_products(pairs, 1 / 16, new(), (6.75 / 16, de), (-8.625 / 16, dw))
        dv = None
        if s.v is not None:
            dv = symmetric_products([(dw, x), (w, dx)], 1.0, new(), (2.25, dw))
        if s.y_out == s.x:
            dy = dx
        elif s.y_out == s.v:
            dy = dv
        else:
            assert dy is not None
            assert y is not None
            more = (s.z, dx) if plan.polynomial else None
            dy = symmetric_products([(dy, x), (y, dx)], 1.0, new(), (2.25, dy), more)
        dw = None
        if s.w_out is not None:
            assert s.v is not None
            assert dv is not None
            dw = symmetric_products([(dv, x), (m[s.v], dx)], 1.0, new(), (2.25, dv))
    assert dy is not None
    return dy


def inner_product(left: Tensor, right: Tensor, shift: float = 0.0) -> Tensor:
    """<left + shift 1, right> of each sample, (B,) float64."""
    n = left.shape[-2]
    panels = blocks(n, PANEL)
    sums = left.new_empty(len(left), panels, dtype=torch.float64)
    launcher.launch(
        launcher.kernels("newton_schulz_sqrt").inner_product, len(left) * panels,
        left, right, sums, n, shift, left.stride(0), right.stride(0),
        PANEL=PANEL, BLOCK=256 if interpreted() else 32,
    )  # fmt: skip
    return sums.sum(1)


def write_rows(matrix: Tensor, factors: Tensor, out: Tensor, *, triangle: bool = False) -> None:
    """out = f_0 M + f_1 1, factors (B, 2), as rows or the upper triangle's."""
    n, tile = matrix.shape[-2], tile_of(matrix, wide=False)
    tiles = blocks(n, tile["BLOCK"]) ** 2
    launcher.launch(
        launcher.kernels("newton_schulz_sqrt").write_rows, len(matrix) * tiles,
        matrix, factors, out, n, matrix.stride(0),
        PANEL=PANEL, ROWS=-1 if triangle else 0, **tile,
    )  # fmt: skip


def root_gradient(
    plan: Steps, m: Slots, grad: Tensor, trace: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of <G, sqrt(tr) Y_K(S / tr)>, tr = tr S, with respect to S: scale M + shift 1.

    M, scale and shift (B,) of grad G; scale and shift are 0 where the trace is.
    """
    inner = inner_product(grad, m[plan.result])
    found = derivative(plan, m, grad)
    root = trace.double().sqrt()
    shift = (inner / 2 - inner_product(found, m[0])) / root
    return found, or_zero(trace, 1 / root), or_zero(trace, shift)
