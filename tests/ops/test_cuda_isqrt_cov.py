"""What test_isqrt_cov.py asks of every backend, asked of the CUDA kernels on the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cuda_emulation import Emulation
from harness import FEW_SHAPES, KINDS, MANY_SHAPES
from test_isqrt_cov import (  # noqa: F401
    case,
    test_a_covariance_that_overflows_shows,
    test_any_scale,
    test_it_is_symmetric,
    test_it_is_the_root_of_the_covariance,
    test_iterations,
    test_memory_layouts,
    test_other_dtypes,
    test_triu_is_the_upper_triangle,
    test_what_is_saved_changes_nothing,
)

from ccdn_ops import isqrt_cov


@pytest.fixture
def backend(emulation: Emulation) -> Iterator[str]:
    with emulation.serving("isqrt_cov", "covariance_pool", "newton_schulz_sqrt"):
        yield "cuda"


@pytest.mark.parametrize("kind", ["dominant", "rank_deficient"])
@pytest.mark.parametrize(("channels", "positions"), [(1, 49), (65, 1), (66, 49), (66, 130)])
def test_fp32_exact_few(backend: str, kind: str, channels: int, positions: int) -> None:
    case(kind, channels, positions).check(isqrt_cov)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("channels", "positions"), FEW_SHAPES + MANY_SHAPES)
def test_fp32_exact_full(backend: str, kind: str, channels: int, positions: int) -> None:
    case(kind, channels, positions).check(isqrt_cov)
