"""newton_schulz_sqrt on the CPU, forward and backward.

"eigh" computes the same function of the eigenvalues. On a CPU it is fast for large matrices, but 5
to 100 times less exact, which the checks allow: compare its error with that of the others.
"sqrth" is torch.linalg.matrix_sqrth, the exact root, where torch has it.
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

# (B, D)
SHAPES = [(32, 64), (8, 128), (8, 256), (2, 512)]
GRID = list(itertools.product((1, 8, 32), (64, 128, 256, 512)))


@pytest.mark.parametrize("shape", GRID if FULL else SHAPES, ids=named)
def test_forward_backward(shape: tuple[int, int], bench: Callable[[Case], Row]) -> None:
    batch, size = shape
    a = reference.covariance_pool(features(batch, size, 2 * size))
    bench(
        Case(
            "newton_schulz_sqrt",
            {"B": batch, "D": size},
            [a.requires_grad_()],
            ours=ccdn_ops.newton_schulz_sqrt,
            reference=reference.newton_schulz_sqrt,
            best_eager=best_eager.newton_schulz_sqrt,
            work=work("newton_schulz_sqrt", batch, size, size),
            eigh=best_eager.eigh_sqrt,
            sqrth=best_eager.exact_sqrt(),
            samples=2,
        )
    )
