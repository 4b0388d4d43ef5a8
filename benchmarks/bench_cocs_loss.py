"""cocs_loss on the CPU, forward and backward; the three levels of a network in one call too."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from cases import Case, Row
from timing import FULL
from torch import Tensor

import ccdn_ops
from ccdn_ops import reference

# (B, P, D) of each level.
NETWORK = ((16, 4, 512), (16, 4, 256), (16, 4, 256))
LEVELS = [((64, 4, 256),), ((16, 4, 256),), ((64, 8, 512),), ((256, 4, 512),), NETWORK]
GRID = [(shape,) for shape in itertools.product((8, 64, 512), (2, 4, 8), (64, 256, 1024))]


def best_eager(*features: Tensor) -> Tensor:
    """Through the sum over the batch of the unit vectors: Q = S S^T / B^2, and L is free of B."""
    losses = []
    for level in features:
        s = torch.nn.functional.normalize(level, dim=2).sum(0)
        squares = (s @ s.mT).square()
        own = squares.trace()
        losses.append((squares.sum() - own) / own)
    return torch.stack(losses)


def named(levels: tuple[tuple[int, ...], ...]) -> str:
    return " + ".join("x".join(map(str, shape)) for shape in levels)


@pytest.mark.parametrize("levels", LEVELS + GRID if FULL else LEVELS, ids=named)
def test_forward_backward(
    levels: tuple[tuple[int, int, int], ...], bench: Callable[[Case], Row]
) -> None:
    random = torch.Generator().manual_seed(0)
    features = [torch.randn(shape, generator=random) + 0.5 for shape in levels]
    numbers = sum(f.numel() for f in features)
    products = sum(p * p * d for _, p, d in levels)
    bench(
        Case(
            "cocs_loss",
            {"B x P x D of each level": named(levels)},
            [f.requires_grad_() for f in features],
            ours=lambda *f: ccdn_ops.cocs_loss(f),
            reference=lambda *f: reference.cocs_loss(f),
            best_eager=best_eager,
            moved=3 * 4 * numbers,  # read twice, and the gradient written
            operations=11 * numbers + 6 * products,
        )
    )
