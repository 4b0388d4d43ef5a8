"""dual_squeeze on the CPU, forward and backward in float32."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import best_eager
import pytest
import torch
from cases import Case, Row
from timing import FULL
from torch import Tensor

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


def features(batch: int, channels: int, positions: int) -> Tensor:
    """Features with one dominant direction, as networks make them."""
    random = torch.Generator().manual_seed(0)
    direction = torch.randn(batch, channels, 1, generator=random)
    direction = direction * torch.randn(batch, 1, positions, generator=random)
    noise = torch.randn(batch, channels, positions, generator=random)
    return 3 * direction + noise


@pytest.mark.parametrize("shape", GRID if FULL else SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_forward_backward(shape: tuple[int, int, int], bench: Callable[[Case], Row]) -> None:
    chosen = ccdn_ops.explain("dual_squeeze", *shape, dtype=torch.float32, device="cpu")
    if chosen.backend != "cpu":
        pytest.skip(f"the native kernels are not used here: {chosen.rejected}")
    assert chosen.bytes is not None
    assert chosen.operations is not None
    bench(
        Case(
            "dual_squeeze",
            dict(zip("BDN", shape, strict=True)),
            [features(*shape).requires_grad_()],
            ours=ccdn_ops.dual_squeeze,
            reference=reference.dual_squeeze,
            best_eager=best_eager.dual_squeeze,
            moved=sum(chosen.bytes),
            operations=sum(chosen.operations),
            samples=2,  # they do not influence each other; two are check enough
        )
    )
