"""What test_covariance_pool.py asks of every backend, asked of the CUDA kernels on the CPU."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from cuda_emulation import Emulation
from harness import features, normal, step
from tensor_cores import round_to_tf32
from test_covariance_pool import (  # noqa: F401
    case,
    test_fp32_exact,
    test_fp32_exact_full,
    test_it_is_symmetric,
    test_it_is_the_covariance_of_numpy,
    test_memory_layouts,
    test_other_dtypes,
)

from ccdn_ops import covariance_pool


@pytest.fixture
def backend(emulation: Emulation) -> Iterator[str]:
    with emulation.serving("covariance_pool"):
        yield "cuda"


@pytest.mark.parametrize(("channels", "positions"), [(65, 100), (80, 33)])
def test_three_terms_of_tf32_are_float32(
    backend: str, emulation: Emulation, channels: int, positions: int
) -> None:
    """The emulation rounds as tensor cores do; with one term of three it is not enough."""
    judged = case("dominant", channels, positions)
    judged.check(covariance_pool)
    emulation.native.emulated_tf32_terms(1)
    try:
        with pytest.raises(AssertionError, match=r"output 0 of dominant.*error"):
            judged.check(covariance_pool)
    finally:
        emulation.native.emulated_tf32_terms(3)


def test_tf32_is_rounded_as_the_device_does(emulation: Emulation) -> None:
    rounded = emulation.native.emulated_to_tf32
    rounded.restype = ctypes.c_float
    random = torch.Generator().manual_seed(0)
    numbers = torch.randn(1000, generator=random).numpy()
    ties = np.float32(1) + np.arange(64, dtype=np.float32) * np.float32(2**-11)
    for number in (*numbers, *ties, *-ties):
        assert rounded(ctypes.c_float(number)) == round_to_tf32(np.array([number]))[0]


def test_barriers(backend: str, emulation: Emulation) -> None:
    """The order in which threads run between barriers, and the grid's size, change no bit."""
    x = features("dominant", 2, 130, 70).requires_grad_()
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        once = step(covariance_pool, [x.to(dtype)], [normal(2, 130, 130, seed=3, dtype=dtype)])
        for thread_order, largest_grid in ((1, 0), (2, 0), (3, 3)):
            emulation.settings(thread_order, largest_grid)
            again = step(covariance_pool, [x.to(dtype)], [normal(2, 130, 130, seed=3, dtype=dtype)])
            assert all(a.equal(b) for a, b in zip(once, again, strict=True))


def test_tiles_of_a_triangle(emulation: Emulation) -> None:
    """Every tile once, in order, and those beyond 2^31 and 2^53 of them."""
    found = (ctypes.c_int64 * 2)()

    def tile(number: int) -> tuple[int, int]:
        emulation.native.emulated_triangle_tile(ctypes.c_int64(number), found)
        return found[0], found[1]

    wanted = [(i, j) for i in range(40) for j in range(i + 1)]
    assert [tile(n) for n in range(len(wanted))] == wanted
    for row in (2**16, 2**31 + 5, 2**26 - 1):
        first = row * (row + 1) // 2
        assert tile(first - 1) == (row - 1, row - 1)
        assert tile(first) == (row, 0)
        assert tile(first + row) == (row, row)


def test_places_in_panels_beyond_32_bits(emulation: Emulation) -> None:
    place = emulation.native.emulated_panel_place
    place.restype = ctypes.c_int64
    n = 70_001
    for i, j in ((0, 31), (5, 32), (n - 1, n - 1)):
        wanted = j // 32 * n * 32 + i * 32 + j % 32
        assert place(*(ctypes.c_int64(number) for number in (i, j, n))) == wanted
