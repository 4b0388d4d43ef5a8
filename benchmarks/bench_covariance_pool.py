"""covariance_pool on the CPU, forward and backward."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import best_eager
import pytest
from cases import Case, Row, features, named, work
from timing import FULL

import ccdn_ops
from ccdn_ops import reference

SHAPES = [(8, 64, 256), (8, 128, 1024), (8, 256, 256), (32, 256, 64), (8, 512, 49)]
GRID = list(itertools.product((1, 8, 32), (64, 128, 256, 512), (49, 64, 256, 1024)))


@pytest.mark.parametrize("shape", GRID if FULL else SHAPES, ids=named)
def test_forward_backward(shape: tuple[int, int, int], bench: Callable[[Case], Row]) -> None:
    bench(
        Case(
            "covariance_pool",
            dict(zip("BDN", shape, strict=True)),
            [features(*shape).requires_grad_()],
            ours=ccdn_ops.covariance_pool,
            reference=reference.covariance_pool,
            best_eager=best_eager.covariance_pool,
            work=work("covariance_pool", *shape),
            samples=2,
        )
    )
