"""Which form of an operator's algorithm is used, and the numbers it needs.

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

On the channels side v is a constant, and A q_K(A) can have a series of its own, h_K(t) = t q_K(t),
which is near sqrt(t) where q_K is near 1 / sqrt(t). Its coefficients start smaller, and the
gradient is just the product of the thin matrices. The CPU kernel uses this series.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from ccdn_ops import chebyshev

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Table = NDArray[np.float64]
else:
    Table = object

Side = Literal["channels", "positions"]


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
    table: Table

    @property
    def coefficients(self) -> Table:
        """The series' coefficients, (terms,): the table's first row, so also its address."""
        return self.table[0]


def smaller_side(channels: int, positions: int) -> Side:
    """Which matrix is the smaller one: D x D or N x N."""
    return "channels" if channels <= positions else "positions"


@lru_cache(maxsize=4096)
def dual_squeeze_plan(
    channels: int, positions: int, iterations: int, dtype_name: str, device_type: str
) -> DualSqueezePlan:
    """The plan for maps of `channels` x `positions`; cached.

    dtype_name is that of the features, such as "float32"; device_type that of torch ("cpu",
    "cuda"). Raises ValueError for iterations outside 1..10.
    """
    precision: chebyshev.Precision = "float64" if dtype_name == "float64" else "float32"
    side = smaller_side(channels, positions)
    root = side == "channels" and device_type == "cpu"
    table = chebyshev.table(iterations, precision, root)
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
