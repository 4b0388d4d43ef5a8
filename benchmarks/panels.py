"""How many numbers the CPU kernels compute for those that are needed, in float32.

Matrices are computed in panels of 32 columns, or half of one, and 8 rows (csrc/cpu/engine), so that
sides such as 49 are rounded up, and blocks on a diagonal have numbers that nobody needs.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from parts import GRADIENT, PRODUCTS

from ccdn_ops.newton_schulz_plan import newton_schulz_plan, products

PANEL, TILE = 32, 8

# Numbers computed and needed.
Numbers = tuple[int, int]


def _up(count: int, unit: int) -> int:
    return -(-count // unit) * unit


def _width(columns: int) -> int:
    """Columns computed of a panel that holds as many."""
    return PANEL // 2 if columns <= PANEL // 2 else PANEL


def _panels(count: int) -> list[int]:
    return [min(PANEL, count - start) for start in range(0, count, PANEL)]


def rectangle(rows: int, columns: int) -> Numbers:
    """Of one product (block_product in csrc/cpu/engine/symmetric.h)."""
    return _up(rows, TILE) * sum(map(_width, _panels(columns))), rows * columns


def symmetric(n: int) -> Numbers:
    """The same of a symmetric one: blocks on and above the diagonal."""
    panels = _panels(n)
    computed = 0
    for j, columns in enumerate(panels):
        for i, rows in enumerate(panels[: j + 1]):
            for row in range(0, rows, TILE):
                lower = i == j and row >= PANEL // 2
                computed += TILE * (PANEL // 2 if lower else _width(columns))
    return computed, n * (n + 1) // 2


def _ratio(numbers: Iterator[tuple[int, Numbers]]) -> float:
    """Computed by needed, each product weighted with its depth."""
    computed = needed = 0
    for depth, (some, few) in numbers:
        computed += depth * some
        needed += depth * few
    return computed / needed


def isqrt_cov(channels: int, positions: int, iterations: int = 5) -> Iterator[tuple[int, Numbers]]:
    plan = newton_schulz_plan(channels, positions, iterations, torch.float32, save=True)
    by_positions = plan.side == "positions"
    n, m = (positions, channels) if by_positions else (channels, positions)
    steps = products(iterations, plan.polynomial)
    yield m, symmetric(n)  # the Gram matrix
    yield 3 * steps * n, symmetric(n)  # the iteration, and its derivative of twice the depth
    if not by_positions:
        yield n, rectangle(n, m)  # the gradient
        return
    yield n, rectangle(n, m)  # Q Xc^T
    yield n, symmetric(m)  # the root
    yield m, rectangle(m, n)  # G Xc
    yield m, symmetric(n)  # the direction
    yield 2 * n, rectangle(m, n)  # the gradient


def rounding(operator: str, size: dict[str, object]) -> dict[str, float]:
    """For a row's parts with products: numbers computed / numbers needed."""
    sides = {name: side for name, side in size.items() if isinstance(side, int)}
    if operator not in ("dual_squeeze", "ctm", "covariance_pool", "isqrt_cov"):
        return {}
    channels = sides["D"]
    positions = sides["N"] if "N" in sides else sides["H"] * sides["W"]
    if operator == "isqrt_cov":
        return {PRODUCTS: _ratio(isqrt_cov(channels, positions))}
    if operator == "covariance_pool":
        products_ = ((positions, symmetric(channels)), (channels, rectangle(channels, positions)))
        return {PRODUCTS: _ratio(iter(products_))}
    return {
        PRODUCTS: _ratio(iter([(1, symmetric(min(channels, positions)))])),
        GRADIENT: _ratio(iter([(1, rectangle(channels, positions))])),
    }
