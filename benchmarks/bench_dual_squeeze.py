"""dual_squeeze on the CPU, forward and backward."""

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
    (32, 64, 1024),
    (8, 256, 256),
    (32, 256, 64),
    (32, 512, 49),
    (8, 64, 256),
    (32, 128, 256),
    (8, 256, 1024),
]
GRID = list(itertools.product((8, 32), (64, 128, 256, 512), (49, 64, 256, 1024)))


@pytest.mark.parametrize("shape", GRID if FULL else SHAPES, ids=named)
def test_forward_backward(shape: tuple[int, int, int], bench: Callable[[Case], Row]) -> None:
    bench(
        Case(
            "dual_squeeze",
            dict(zip("BDN", shape, strict=True)),
            [features(*shape).requires_grad_()],
            ours=ccdn_ops.dual_squeeze,
            reference=reference.dual_squeeze,
            best_eager=best_eager.dual_squeeze,
            work=work("dual_squeeze", *shape),
            samples=2,  # they do not influence each other; two are check enough
        )
    )
