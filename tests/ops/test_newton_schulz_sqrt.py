"""newton_schulz_sqrt on every backend that serves CPU tensors: the numbers."""

from __future__ import annotations

import pytest
from matrix_roots import (  # noqa: F401
    Root,
    test_a_counts_as_its_symmetric_part,
    test_any_scale,
    test_any_shape,
    test_fp32_exact,
    test_fp32_exact_full,
    test_gradcheck_through_b_b_transposed,
    test_iterations,
    test_other_dtypes,
    test_the_gradient_is_that_along_symmetric_directions,
    test_what_is_saved_changes_nothing,
)

from ccdn_ops import newton_schulz_sqrt

ROOT = Root(
    newton_schulz_sqrt,
    results=1,
    norm=None,
    scales=(1e-30, 1e-20, 1e20, 1e30),
    rounding=1e-12,
    regular=False,
)


@pytest.fixture(scope="module")
def root() -> Root:
    return ROOT
