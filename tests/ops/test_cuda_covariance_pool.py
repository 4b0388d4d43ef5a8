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
    JUDGE,
    case,
    test_fp32_exact,
    test_fp32_exact_full,
    test_it_is_symmetric,
    test_it_is_the_covariance_of_numpy,
    test_memory_layouts,
    test_other_dtypes,
)

from ccdn_ops import covariance_pool

KIND_OF_FEATURES = ("noise", "dominant", "large", "nearly_constant", "rank_deficient")


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
    # bfloat16 features of whole packs, in either layout, are read once.
    few, packs = features("dominant", 2, 130, 70), features("dominant", 2, 136, 72).bfloat16()
    for x in (few, few.double(), few.bfloat16(), packs, laid_out(packs, True)):
        upstream = normal(2, x.shape[1], x.shape[1], seed=3, dtype=x.dtype)
        emulation.settings()
        once = step(covariance_pool, [x.requires_grad_()], [upstream])
        for thread_order, largest_grid in ((1, 0), (2, 0), (3, 3)):
            emulation.settings(thread_order, largest_grid)
            again = step(covariance_pool, [x], [upstream])
            assert all(a.equal(b) for a, b in zip(once, again, strict=True))


def laid_out(x: torch.Tensor, turned: bool) -> torch.Tensor:
    """The same features, in memory channels by positions or, turned, positions by channels."""
    return x.mT.contiguous().mT if turned else x


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("kind", KIND_OF_FEATURES)
# A part of a tile, several with a part at the end; whole slices of positions, and parts of one.
@pytest.mark.parametrize(("channels", "positions"), [(72, 8), (128, 64), (136, 72), (264, 40)])
def test_bfloat16_in_one_reading(
    backend: str, emulation: Emulation, kind: str, channels: int, positions: int, turned: bool
) -> None:
    """Two launches: the tiles of the covariance, and its trace."""
    x = laid_out(features(kind, 2, channels, positions, dtype=torch.bfloat16), turned)
    before = emulation.native.emulated_launches()
    found = covariance_pool(x)
    assert emulation.native.emulated_launches() == before + 2
    assert found.equal(found.mT)
    JUDGE.case(f"{kind} {tuple(x.shape)} {x.stride()}", [x]).check(covariance_pool)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("positions", [64, 1024])
def test_a_shift_far_from_the_mean(backend: str, positions: int, turned: bool) -> None:
    """Outliers exactly where a channel's shift is taken from: as far off as it can be."""
    shifting = features("noise", 1, 72, positions)
    each = 1 if turned else 8  # numbers side by side, which are read at once
    count, extent = max(16, positions // 64) // each, positions // each
    places = [(i * extent + i * 37 % 64 * extent // 64) // count * each for i in range(count)]
    at = torch.tensor([place + k for place in places for k in range(each)])
    for outlier in (3.0, 1e3):
        x = shifting.clone()
        x[..., at] += outlier
        x = laid_out(x.bfloat16(), turned)
        JUDGE.case(f"outliers of {outlier}", [x]).check(covariance_pool)


@pytest.mark.parametrize("turned", [False, True])
def test_bfloat16_samples_that_are_constant_or_not_finite(backend: str, turned: bool) -> None:
    """Each sample alone: constant, with a NaN, with an infinity, with squares that overflow."""
    x = features("noise", 5, 72, 40, dtype=torch.bfloat16)
    others = covariance_pool(laid_out(x, turned))
    x[1] = torch.linspace(-1 / 3, 1e3, 72)[:, None]
    x[2, 5, 7] = float("nan")
    x[3, 71, 39] = float("inf")
    x[4] *= 1e25
    found, grad = step(
        covariance_pool, [laid_out(x, turned)], [normal(5, 72, 72, seed=3, dtype=torch.bfloat16)]
    )
    assert found[0].equal(others[0])
    assert grad[0].isfinite().all()
    assert (found[1] == 0).all()
    assert (grad[1] == 0).all()
    assert not found[2:].isfinite().any()
    assert not grad[2:].isfinite().any()


def test_more_positions_than_one_reading_may_sum(backend: str, emulation: Emulation) -> None:
    """Where accumulators would lose too much, features are centred first: more launches."""
    x = torch.ones(1, 1, 1, dtype=torch.bfloat16).expand(1, 72, 1)
    for positions, launches in ((2**14, 2), (2**14 + 8, 4)):
        before = emulation.native.emulated_launches()
        with emulation.only([[]] * launches):
            covariance_pool(x.expand(1, 72, positions).contiguous())
        assert emulation.native.emulated_launches() == before + launches


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
