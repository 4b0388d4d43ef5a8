"""excitation_gates on the CPU, forward and backward, with R = D / 4."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import best_eager
import pytest
import torch
from cases import Case, Row, named, network_weights, work
from timing import FULL

import ccdn_ops
from ccdn_ops import reference

# (B, P, D)
SHAPES = [(16, 4, 256), (16, 4, 512), (64, 4, 256), (16, 2, 64)]
GRID = list(itertools.product((1, 16, 64), (2, 4, 8), (64, 256, 512)))


@pytest.mark.parametrize("shape", GRID if FULL else SHAPES, ids=named)
def test_forward_backward(shape: tuple[int, int, int], bench: Callable[[Case], Row]) -> None:
    batch, excitations, channels = shape
    random = torch.Generator().manual_seed(0)
    squeezes = [torch.randn(batch, channels, generator=random) for _ in range(2)]
    bench(
        Case(
            "excitation_gates",
            dict(zip("BPD", shape, strict=True)),
            [*(s.requires_grad_() for s in squeezes), *network_weights(excitations, channels)],
            ours=ccdn_ops.excitation_gates,
            reference=reference.excitation_gates,
            best_eager=best_eager.excitation_gates,
            work=work("excitation_gates", batch, channels, excitations=excitations),
        )
    )
