"""The tables of the Chebyshev series that plans.py describes, in float64."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Precision = Literal["float32", "float64"]

# How many terms leave sup |t dq| <= 2.5e-9 (float32) and <= 7e-15 (float64) on [0, 1], by K. The
# first two are exact. tests/ops/test_plans.py checks the bound, and that one fewer term breaks it.
TERMS: dict[Precision, tuple[int, ...]] = {
    "float32": (2, 5, 12, 19, 29, 44, 66, 100, 149, 223),
    "float64": (2, 5, 14, 27, 43, 65, 99, 147, 221, 331),
}
ROOT_TERMS: dict[Precision, tuple[int, ...]] = {
    "float32": (3, 6, 13, 19, 29, 43, 63, 93, 137, 201),
    "float64": (3, 6, 15, 27, 43, 65, 99, 147, 221, 331),
}
# Singular values of H below this share of the largest one are dropped. That of the root is small:
# nothing divides by sqrt(t) that is multiplied by t later.
RANK_TOLERANCE: dict[Precision, float] = {"float32": 3e-10, "float64": 2e-16}
ROOT_RANK_TOLERANCE: dict[Precision, float] = {"float32": 1e-8, "float64": 2e-16}


@lru_cache
def chebyshev_coefficients(
    iterations: int, precision: Precision, root: bool = False
) -> NDArray[np.float64]:
    """Coefficients c_j of q_K(t) = sum c_j T_j(2 t - 1) on [0, 1], (terms,), read-only.

    With root those of h_K(t) = t q_K(t). Raises ValueError for iterations outside 1..10.
    """
    return _read_only(table(iterations, precision, root)[0])


def _series(iterations: int, root: bool) -> NDArray[np.float64]:
    """All coefficients of q_K down to rounding, and those of q_K + 2 t q_K', (2, count).

    With root of h_K = t q_K and 2 t h_K' - h_K = t (q_K + 2 t q_K').
    """
    if not 1 <= iterations <= 10:
        raise ValueError(f"iterations is {iterations}; expected 1 to 10")
    nodes = 2048  # the series has fallen to rounding long before, so nothing aliases
    angle = np.pi * (np.arange(nodes) + 0.5) / nodes
    t = np.cos(angle / 2) ** 2
    q = newton_schulz_polynomial(iterations, t)
    values = np.stack([q, q + 2 * t * _slope(iterations, t)])
    if root:
        values *= t
    # The discrete cosine transform, by the Fourier transform of the values and their mirror image.
    spectrum = np.fft.rfft(np.concatenate([values, values[:, ::-1]], axis=1))[:, :nodes]
    shift = np.exp(-0.5j * np.pi * np.arange(nodes) / nodes)
    series = (spectrum * shift).real / nodes
    series[:, 0] /= 2
    return series[:, : 3 * TERMS["float64"][iterations - 1] // 2 + 1]


def newton_schulz_polynomial(iterations: int, t: NDArray[np.float64]) -> NDArray[np.float64]:
    """q_K(t), elementwise: `iterations` steps of q <- q (3 - t q^2) / 2 from q = 1."""
    q = np.ones_like(t)
    for _ in range(iterations):
        q = q * (3 - t * q * q) / 2
    return q


def _slope(iterations: int, t: NDArray[np.float64]) -> NDArray[np.float64]:
    """dq_K/dt, elementwise."""
    q, slope = np.ones_like(t), np.zeros_like(t)
    for _ in range(iterations):
        slope = (3 * slope - q**3 - 3 * t * q * q * slope) / 2
        q = q * (3 - t * q * q) / 2
    return slope


_tables: dict[tuple[int, Precision, bool], NDArray[np.float64]] = {}


def table(iterations: int, precision: Precision, root: bool) -> NDArray[np.float64]:
    """One array for the life of the process, even if two threads request it first at the same time:
    arguments of native calls hold its address.
    """
    key = iterations, precision, root
    if key not in _tables:
        _tables.setdefault(key, _made_table(*key))
    return _tables[key]


def _made_table(iterations: int, precision: Precision, root: bool) -> NDArray[np.float64]:
    series = _series(iterations, root)
    terms = (ROOT_TERMS if root else TERMS)[precision][iterations - 1]
    tolerance = (ROOT_RANK_TOLERANCE if root else RANK_TOLERANCE)[precision]
    left, right = _hankel_factors(series[0], terms, tolerance)
    return _read_only(np.vstack([series[:, :terms], left, right]))


def _hankel_factors(
    series: NDArray[np.float64], terms: int, tolerance: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """L, R (rank, terms) with H = L^T R.

    H is that of the whole series, cut to the first rows and columns: the H of the cut series would
    have the cut's noise in its singular values.
    """
    size = len(series)
    tails = np.zeros(2 * size)
    for p in range(size - 1, -1, -1):
        tails[p] = series[p] + tails[p + 2]
    index = np.arange(terms)
    weight = np.where(index == 0, 1.0, 2.0)
    hankel = weight[:, None] * weight[None, :] * tails[index[:, None] + index[None, :] + 1]
    values, vectors = np.linalg.eigh(hankel)
    keep = np.abs(values) > tolerance * np.abs(values).max()
    right = vectors[:, keep].T
    return values[keep, None] * right, right


def _read_only(array: NDArray[np.float64]) -> NDArray[np.float64]:
    array = np.ascontiguousarray(array)
    array.flags.writeable = False
    return array
