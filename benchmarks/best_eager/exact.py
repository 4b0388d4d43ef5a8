"""The exact square root, as torch.linalg.matrix_sqrth (torch 2.14) computes it.

It is another function than the K-th iterate of ours: at K = 5 small eigenvalues are still far from
their roots. So it is checked against an exact root of its own. Its gradient is infinite where the
matrix is singular, so with no more positions than channels isqrt_cov has no such row.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from best_eager.covariance_pool import covariance_pool

Root = Callable[[Tensor], Tensor]


def exact_sqrt() -> tuple[Root, Root] | None:
    """The root of a (B, D, D) and what to check it against; None if this torch has none."""
    root: Root | None = getattr(torch.linalg, "matrix_sqrth", None)
    if root is None:
        return None
    return lambda a: root(_symmetric(a)), _by_eigenvalues


def exact_isqrt_cov(channels: int, positions: int) -> tuple[Root, Root] | None:
    """The same of the covariance of x (B, D, N); None, too, if that is singular."""
    found = exact_sqrt()
    if found is None or positions <= channels:
        return None
    root, truth = found
    return lambda x: root(covariance_pool(x)), lambda x: truth(covariance_pool(x))


def _symmetric(a: Tensor) -> Tensor:
    """torch reads one triangle; this shares the gradient between both, as ours does."""
    return (a + a.mT) / 2


def _by_eigenvalues(a: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(_symmetric(a))
    return vectors * values.sqrt().unsqueeze(1) @ vectors.mT
