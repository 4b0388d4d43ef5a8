"""ctm on the CPU, forward and backward: dual_squeeze, the gates and the excited maps."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import best_eager
import pytest
from cases import Case, Row, features, named, network_weights, work
from timing import FULL
from torch import Tensor

import ccdn_ops
from ccdn_ops import reference

# (B, D, H, W) and P
CASES = [
    ((16, 256, 16, 16), 4),
    ((16, 512, 8, 8), 4),
    ((16, 128, 32, 32), 4),
    ((16, 256, 8, 8), 2),
]
GRID = [
    ((batch, channels, side, side), excitations)
    for batch, (channels, side), excitations in itertools.product(
        (1, 16), ((64, 32), (128, 32), (256, 16), (256, 8), (512, 8), (512, 7)), (2, 4, 8)
    )
]


@pytest.mark.parametrize(("shape", "excitations"), GRID if FULL else CASES, ids=named)
def test_forward_backward(
    shape: tuple[int, int, int, int], excitations: int, bench: Callable[[Case], Row]
) -> None:
    batch, channels, height, width = shape
    x = features(batch, channels, height * width).view(shape)

    def ours(x: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        return ccdn_ops.ctm(x, weights)

    def literal(x: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        return reference.ctm(x, weights)

    bench(
        Case(
            "ctm",
            {**dict(zip("BDHW", shape, strict=True)), "P": excitations},
            [x.requires_grad_(), *network_weights(excitations, channels)],
            ours=ours,
            reference=literal,
            best_eager=best_eager.ctm,
            work=work("ctm", *shape, excitations=excitations),
        )
    )
