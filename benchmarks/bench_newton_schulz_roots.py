"""newton_schulz_roots on the CPU, forward and backward of both roots in float32."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import best_eager
import pytest
from cases import Case, Row, features, named, work
from timing import FULL

import ccdn_ops
from ccdn_ops import reference

# (B, D): the groups of IterNorm, the patches of network deconvolution, wide layers.
SHAPES = [(32, 64), (1, 576), (8, 128), (8, 256)]
GRID = list(itertools.product((1, 8, 32), (64, 128, 256, 512)))


@pytest.mark.parametrize("shape", GRID if FULL else SHAPES, ids=named)
def test_forward_backward(shape: tuple[int, int], bench: Callable[[Case], Row]) -> None:
    batch, size = shape
    a = reference.covariance_pool(features(batch, size, 2 * size))
    bench(
        Case(
            "newton_schulz_roots",
            {"B": batch, "D": size},
            [a.requires_grad_()],
            ours=ccdn_ops.newton_schulz_roots,
            reference=reference.newton_schulz_roots,
            best_eager=best_eager.newton_schulz_roots,
            work=work("newton_schulz_roots", batch, size, size),
            samples=2,
        )
    )
