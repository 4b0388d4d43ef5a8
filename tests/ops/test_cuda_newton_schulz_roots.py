"""What test_newton_schulz_roots.py asks of every backend, asked of the CUDA kernels on the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cuda_emulation import Emulation
from harness import KINDS
from test_newton_schulz_roots import (  # noqa: F401
    case,
    check,
    test_a_counts_as_its_symmetric_part,
    test_a_gradient_of_one_of_the_two,
    test_a_matrix_of_zeros,
    test_any_scale,
    test_iterations,
    test_other_dtypes,
    test_the_gradient_is_that_along_symmetric_directions,
    test_what_is_saved_changes_nothing,
    test_what_overflows_shows,
)


@pytest.fixture
def backend(emulation: Emulation) -> Iterator[str]:
    with emulation.serving("newton_schulz_roots"):
        yield "cuda"


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("kind", ["dominant", "rank_deficient"])
@pytest.mark.parametrize("size", [1, 3, 66])
def test_fp32_exact_few(backend: str, kind: str, size: int, norm: bool) -> None:
    check(case(kind, size, norm=norm), norm=norm)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [65, 129, 200])
def test_fp32_exact_full(backend: str, kind: str, size: int) -> None:
    check(case(kind, size))
