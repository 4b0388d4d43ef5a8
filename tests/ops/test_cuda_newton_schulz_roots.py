"""What test_newton_schulz_roots.py asks of every backend, asked of the CUDA kernels on the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cuda_emulation import Emulation
from matrix_roots import (  # noqa: F401
    test_a_counts_as_its_symmetric_part,
    test_any_scale,
    test_fp32_exact_emulated,
    test_fp32_exact_emulated_full,
    test_iterations,
    test_other_dtypes,
    test_the_gradient_is_that_along_symmetric_directions,
    test_what_is_saved_changes_nothing,
)
from test_newton_schulz_roots import (  # noqa: F401
    root,
    test_a_gradient_of_one_of_the_two,
    test_a_matrix_of_zeros,
    test_what_overflows_shows,
)


@pytest.fixture
def backend(emulation: Emulation) -> Iterator[str]:
    with emulation.serving("newton_schulz_roots"):
        yield "cuda"
