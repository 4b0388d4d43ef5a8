"""isqrt_cov on the CPU, forward and backward: few positions, then more of them.

"eigh" and "sqrth": see bench_newton_schulz_sqrt.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import best_eager
import pytest
from cases import Case, Row, features, named, work
from timing import FULL

import ccdn_ops
from ccdn_ops import reference

SHAPES = [
    (8, 256, 49),
    (32, 256, 64),
    (8, 512, 64),
    (8, 256, 256),
    (8, 64, 256),
    (8, 128, 1024),
]
GRID = list(itertools.product((1, 8, 32), (64, 128, 256, 512), (49, 64, 256, 1024)))


@pytest.mark.parametrize("shape", GRID if FULL else SHAPES, ids=named)
def test_forward_backward(shape: tuple[int, int, int], bench: Callable[[Case], Row]) -> None:
    bench(
        Case(
            "isqrt_cov",
            dict(zip("BDN", shape, strict=True)),
            [features(*shape).requires_grad_()],
            ours=ccdn_ops.isqrt_cov,
            reference=reference.isqrt_cov,
            best_eager=best_eager.isqrt_cov,
            work=work("isqrt_cov", *shape),
            eigh=best_eager.eigh_isqrt_cov,
            sqrth=best_eager.exact_isqrt_cov(*shape[1:]),
            samples=2,
        )
    )
