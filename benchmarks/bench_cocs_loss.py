"""cocs_loss on the CPU, forward and backward: single levels, and a network's three in one call."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import best_eager
import pytest
import torch
from cases import Case, Row, named, work
from timing import FULL

import ccdn_ops
from ccdn_ops import reference

# (B, P, D) of each level.
NETWORK = ((16, 4, 512), (16, 4, 256), (16, 4, 256))
LEVELS = [((64, 4, 256),), ((16, 4, 256),), ((64, 8, 512),), ((256, 4, 512),), NETWORK]
GRID = [(shape,) for shape in itertools.product((8, 64, 512), (2, 4, 8), (64, 256, 1024))]


def joined(levels: tuple[tuple[int, ...], ...]) -> str:
    return " + ".join(named(shape) for shape in levels)


@pytest.mark.parametrize("levels", LEVELS + GRID if FULL else LEVELS, ids=joined)
def test_forward_backward(
    levels: tuple[tuple[int, int, int], ...], bench: Callable[[Case], Row]
) -> None:
    random = torch.Generator().manual_seed(0)
    features = [torch.randn(shape, generator=random) + 0.5 for shape in levels]
    moved, operations = zip(*(work("cocs_loss", *shape) for shape in levels), strict=True)
    bench(
        Case(
            "cocs_loss",
            {"B x P x D of each level": joined(levels)},
            [f.requires_grad_() for f in features],
            ours=lambda *f: ccdn_ops.cocs_loss(f),
            reference=lambda *f: reference.cocs_loss(f),
            best_eager=best_eager.cocs_loss,
            work=(sum(moved), sum(operations)),
        )
    )
