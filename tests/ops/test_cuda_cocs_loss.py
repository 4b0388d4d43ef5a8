"""What tests/ops/test_cocs_loss.py asks of every backend, asked of the CUDA kernels on the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from cuda_emulation import Emulation
from harness import Judge
from test_cocs_loss import (  # noqa: F401
    test_an_empty_level_among_others,
    test_fp32_exact,
    test_levels,
    test_magnitude_does_not_matter,
    test_memory_layouts,
    test_nan_stays_in_its_level,
    test_nearly_cancelling_features,
    test_other_dtypes,
    test_zero_vectors_among_others,
    test_zero_without_gradient,
)

from ccdn_ops import cocs_loss, reference


@pytest.fixture
def backend(emulation: Emulation) -> Iterator[str]:
    with emulation.serving("cocs_loss"):
        yield "cuda"


def test_more_levels_than_a_launch_takes(backend: str) -> None:
    random = torch.Generator().manual_seed(0)
    levels = [
        torch.randn(3 + i % 4, 2 + i % 3, 5 + i, generator=random).requires_grad_()
        for i in range(35)
    ]
    weights = torch.linspace(1, 2, len(levels))
    # The levels have their own numbers of samples, excitations and channels.
    axes = [f"{chr(3 * i + 200)}{chr(3 * i + 201)}{chr(3 * i + 202)}" for i in range(len(levels))]
    judge = Judge(lambda *levels: reference.cocs_loss(levels), axes, ["L"])
    case = judge.case("35 levels", [level.detach() for level in levels], [weights])
    case.check(lambda *levels: cocs_loss(levels))
