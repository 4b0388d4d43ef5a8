"""multi_excite on the CPU, forward and backward. The reference broadcasts."""

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

FORMATS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
# (B, D, H, W), P, and the memory format of x
CASES = [
    ((16, 256, 16, 16), 4, "NCHW"),
    ((16, 256, 16, 16), 4, "channels_last"),
    ((16, 512, 8, 8), 4, "NCHW"),
    ((16, 512, 8, 8), 4, "channels_last"),
    ((8, 64, 64, 64), 2, "NCHW"),
]
GRID = [
    ((batch, channels, side, side), excitations, memory)
    for batch, (channels, side), excitations, memory in itertools.product(
        (1, 16), ((64, 64), (128, 32), (256, 16), (512, 8), (512, 7)), (2, 4, 8), FORMATS
    )
]


@pytest.mark.parametrize(("shape", "excitations", "memory"), GRID if FULL else CASES, ids=named)
def test_forward_backward(
    shape: tuple[int, int, int, int], excitations: int, memory: str, bench: Callable[[Case], Row]
) -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=random).contiguous(memory_format=FORMATS[memory])
    gates = torch.rand(shape[0], excitations, shape[1], generator=random)
    bench(
        Case(
            "multi_excite",
            {**dict(zip("BDHW", shape, strict=True)), "P": excitations, "memory": memory},
            [x.requires_grad_(), gates.requires_grad_()],
            ours=ccdn_ops.multi_excite,
            reference=reference.multi_excite,
            best_eager=best_eager.multi_excite,
            work=work("multi_excite", *shape, excitations=excitations),
            samples=2,
        )
    )
