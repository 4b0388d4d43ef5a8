"""Which form of an operator's algorithm is used, and the numbers that it needs.

K coupled Newton-Schulz steps turn A = S / tr S into a polynomial in A: Y_K = A q_K(A) with q_0 = 1
and q_{k+1}(t) = q_k(t) (3 - t q_k(t)^2) / 2. The second-order squeeze applies that polynomial to
one vector, so no matrix is ever iterated: q_K, of degree (3^K - 1) / 2, is smooth on [0, 1], where
the eigenvalues of A lie, and a short Chebyshev series on [0, 1] replaces it. With M = 2 A - I,

    q_K(A) v = sum over j of c_j t_j,   t_0 = v, t_1 = M v, t_{j+1} = 2 M t_j - t_{j-1}.

The gradient with respect to the matrix of L = s^T q_K(A) v is

    dL/dM = sum over i, j of H_ij (T_i(M) s) (T_j(M) v)^T,
    H_ij = e_i e_j h_{i+j+1},   e_0 = 1, e_i = 2,   h_p = c_p + c_{p+2} + c_{p+4} + ...

H is a Hankel matrix whose singular values fall off so fast that a handful of them carry float32:
the gradient is a product of thin matrices whose rank is not the number of terms but 8 (K = 5).

On the side of the channels v is a constant, and A q_K(A) may as well be a series of its own, h_K(t)
= t q_K(t), near sqrt(t) where q_K is near 1 / sqrt(t): it starts in smaller coefficients, and the
gradient is the product of the thin matrices and nothing else. The CPU kernel takes that one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Precision = Literal["float32", "float64"]
Side = Literal["channels", "positions"]

# How many terms leave sup |t dq| <= 2.5e-9 (float32) and <= 7e-15 (float64) on [0, 1], by K. The
# first two are exact. tests/ops/test_plans.py checks the bound and that one term less breaks it.
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


@dataclass(frozen=True, eq=False)
class DualSqueezePlan:
    """How dual_squeeze treats maps of one shape.

    Args:
        side: the matrix of the recurrence is D x D ("channels") or N x N ("positions").
        root: the series is that of h_K(t) = t q_K(t), not of q_K.
        saves_gram: that matrix is kept for the backward pass.
        terms: Chebyshev terms m of the series on [0, 1].
        rank: rows of each half of the factors of H.
        dense_gradient: the CPU kernel multiplies the features by one n x n matrix instead of by the
            thin factors.
        table: float64, C-contiguous, (2 + 2 rank, terms). Row 0 are the coefficients c of q_K, row
            1 those of q_K + 2 t q_K'(t) (the gradient's radial part; for h_K it is 2 t h_K' - h_K),
            then `rank` rows L and `rank` rows R with H = L^T R.
    """

    side: Side
    root: bool
    saves_gram: bool
    terms: int
    rank: int
    dense_gradient: bool
    table: NDArray[np.float64]

    @property
    def coefficients(self) -> NDArray[np.float64]:
        """The series' coefficients, (terms,): the table's first row, so also its address."""
        return self.table[0]


@lru_cache(maxsize=4096)
def dual_squeeze_plan(
    channels: int, positions: int, iterations: int, dtype_name: str, device_type: str
) -> DualSqueezePlan:
    """The plan for maps of `channels` x `positions`; cached.

    dtype_name is that of the features, such as "float32"; device_type that of torch ("cpu",
    "cuda"). Raises ValueError for iterations outside 1..10.
    """
    precision: Precision = "float64" if dtype_name == "float64" else "float32"
    side: Side = "channels" if channels <= positions else "positions"
    root = side == "channels" and device_type == "cpu"
    table = _table(iterations, precision, root)
    rank = (len(table) - 2) // 2
    return DualSqueezePlan(
        side=side,
        root=root,
        saves_gram=True,
        terms=table.shape[1],
        rank=rank,
        # Multiplications per feature: n dense, 4 (rank + 1) thin.
        dense_gradient=min(channels, positions) <= 4 * (rank + 1),
        table=table,
    )


@lru_cache
def chebyshev_coefficients(
    iterations: int, precision: Precision, root: bool = False
) -> NDArray[np.float64]:
    """Coefficients c_j of q_K(t) = sum c_j T_j(2 t - 1) on [0, 1], (terms,), read-only.

    With root those of h_K(t) = t q_K(t). Raises ValueError for iterations outside 1..10.
    """
    return _read_only(_table(iterations, precision, root)[0])


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


def _table(iterations: int, precision: Precision, root: bool) -> NDArray[np.float64]:
    """One array for the life of the process, also where two threads ask for it first: arguments of
    native calls hold its address.
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
