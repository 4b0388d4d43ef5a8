"""dual_squeeze's CUDA kernels on the CPU (tests/ops/cuda_emulation): values, indices, barriers.

Races are in test_cuda_races.py; what a device alone can show (its memory model, speed) is not here.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cuda_emulation import Emulation
from far_memory import reserved
from harness import CHANNELS, KINDS, POSITIONS, check_close, err, features, tolerances, truth
from harness import LAYOUTS as HARNESS_LAYOUTS
from harness import laid_out as harness_layout
from harness import upstream as upstream_of
from torch import Tensor

from ccdn_ops.backends import registry
from ccdn_ops.backends.cuda.device import supports
from ccdn_ops.chebyshev import TERMS
from ccdn_ops.plans import dual_squeeze_plan

LAYOUTS = ("positions_inner", "channels_inner")


@pytest.fixture(autouse=True)
def plain_settings(emulation: Emulation) -> None:
    emulation.settings()


def laid_out(x: Tensor, layout: str) -> Tensor:
    return x if layout == "positions_inner" else x.mT.contiguous().mT


def check(
    emulation: Emulation,
    x: Tensor,
    iterations: int = 5,
    side: str | None = None,
    saves_gram: bool | None = None,
) -> None:
    """Values, and the gradient through second alone, against the float64 reference."""
    g = upstream_of(x)
    found = emulation.dual_squeeze(x, iterations, (torch.zeros_like(g), g), side, saves_gram)
    exact = truth(x.contiguous(), (None, g), iterations)
    what = f"{tuple(x.shape)} {x.dtype}, K = {iterations}, side {side}"
    check_close(found[:3], exact, tolerances(x, (None, g), iterations, exact), what)


# Dense and low-rank gradients (n beyond 4 m), one and several tiles, 1 on either axis.
SHAPES = [(1, 1), (1, 49), (3, 2), (65, 1), (65, 49), (129, 81), (65, 129), (3, 1000), (513, 2)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("channels", "positions"), SHAPES)
def test_fp32_exact(emulation: Emulation, channels: int, positions: int, layout: str) -> None:
    check(emulation, laid_out(features("dominant", 2, channels, positions), layout))


@pytest.mark.parametrize("side", ["channels", "positions"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("channels", "positions"), [(70, 90), (130, 120)])
def test_both_sides(
    emulation: Emulation, channels: int, positions: int, layout: str, side: str
) -> None:
    x = laid_out(features("noise", 1, channels, positions), layout)
    check(emulation, x, 3, side=side, saves_gram=False)
    check(emulation, x.double(), 3, side=side)


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize(("channels", "positions"), [(33, 20), (20, 49)])
def test_kinds(emulation: Emulation, kind: str, channels: int, positions: int) -> None:
    check(emulation, features(kind, 2, channels, positions))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("positions", POSITIONS)
def test_full_grid(emulation: Emulation, kind: str, channels: int, positions: int) -> None:
    for layout in LAYOUTS:
        check(emulation, laid_out(features(kind, 2, channels, positions), layout))


@pytest.mark.parametrize("iterations", range(1, 11))
@pytest.mark.parametrize(("channels", "positions"), [(24, 10), (10, 24)])
def test_iterations(emulation: Emulation, channels: int, positions: int, iterations: int) -> None:
    check(emulation, features("dominant", 1, channels, positions), iterations)
    wide = features("noise", 1, channels, positions, dtype=torch.float64)
    check(emulation, wide, iterations)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("kind", ["dominant", "large"])
@pytest.mark.parametrize(("channels", "positions"), [(33, 20), (20, 33), (130, 150)])
def test_other_dtypes(
    emulation: Emulation, kind: str, channels: int, positions: int, dtype: torch.dtype
) -> None:
    check(emulation, features(kind, 1, channels, positions, dtype=dtype))


@pytest.mark.parametrize(("channels", "positions"), [(12, 40), (40, 12), (130, 140)])
def test_both_gradients(emulation: Emulation, channels: int, positions: int) -> None:
    x = features("dominant", 2, channels, positions)
    grads = upstream_of(x), upstream_of(x, seed=3)
    found = emulation.dual_squeeze(x, 3, grads)
    exact = truth(x, grads, 3)
    check_close(found[:3], exact, tolerances(x, grads, 3, exact))


@pytest.mark.parametrize("stride", [(7, 300, 13), (4000, 5, 200), (3001, 50, 2)])
def test_strides(emulation: Emulation, stride: tuple[int, int, int]) -> None:
    shape = {7: (5, 10, 20), 4000: (2, 40, 19), 3001: (2, 60, 25)}[stride[0]]
    x = torch.full((8000,), float("nan")).as_strided(shape, stride)
    x.copy_(features("dominant", *shape))
    check(emulation, x, 2)


def test_saved_tensors(emulation: Emulation) -> None:
    for channels, positions in ((6, 10), (10, 6)):
        x = features("large", 2, channels, positions, dtype=torch.float64)
        g = upstream_of(x)
        *_, mean, trace, gram = emulation.dual_squeeze(x, 2, (g, g))
        centred = x - x.mean(2, keepdim=True)
        product = centred @ centred.mT if channels < positions else centred.mT @ centred
        assert err(mean, x.mean(2)) < 1e-15
        assert err(trace, centred.square().sum((1, 2)) / positions) < 1e-14
        assert err(gram, product / positions) < 1e-14
        assert gram.equal(gram.mT)


@pytest.mark.parametrize(("channels", "positions"), [(12, 40), (40, 12), (130, 140)])
def test_samples_are_apart(emulation: Emulation, channels: int, positions: int) -> None:
    x = features("dominant", 3, channels, positions)
    g = upstream_of(x)
    clean = emulation.dual_squeeze(x, 2, (g, g))
    x[1, 2, 3] = float("nan")
    x[2] = 0.7
    first, second, grad, _, trace, _ = dirty = emulation.dual_squeeze(x, 2, (g, g))
    for before, after in zip(clean, dirty, strict=True):
        assert after[0].equal(before[0])
    assert second[1].isnan().all()
    assert grad[1].isnan().any()
    assert first[1].isnan().sum() == 1
    assert trace[2] == 0
    assert (second[2] == 0).all()
    assert err(grad[2], g[2][:, None].expand_as(x[2]) / positions) < 1e-7


@pytest.mark.parametrize("value", [0.0, 0.1, 1000.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_no_variance(emulation: Emulation, value: float, dtype: torch.dtype) -> None:
    x = torch.full((1, 5, 2000), value, dtype=dtype)
    x = x * torch.linspace(1, 2, 5, dtype=dtype)[:, None]
    g = upstream_of(x)
    first, second, grad, _, trace, _ = emulation.dual_squeeze(x, 2, (g, 1e3 * g))
    assert err(first, x[..., 0]) <= torch.finfo(dtype).eps
    assert (second == 0).all()
    assert (trace == 0).all()
    assert err(grad, g[..., None].expand_as(x) / 2000) <= torch.finfo(dtype).eps


def test_empty_batch(emulation: Emulation) -> None:
    before = emulation.native.emulated_launches()
    x = torch.empty(0, 4, 6)
    first, _, grad, *_ = emulation.dual_squeeze(x, 5, (torch.empty(0, 4), torch.empty(0, 4)))
    assert first.shape == (0, 4)
    assert grad.shape == (0, 4, 6)
    assert emulation.native.emulated_launches() == before


@pytest.mark.parametrize(("channels", "positions"), [(70, 90), (90, 70), (130, 140), (514, 3)])
def test_barriers(emulation: Emulation, channels: int, positions: int) -> None:
    """The order in which threads run between barriers, and the grid's size, change no bit."""
    x = features("dominant", 2, channels, positions)
    g = upstream_of(x)
    # The longer axis as the matrix's too: more entries than a block has threads.
    side = "channels" if channels > 500 else None
    once = emulation.dual_squeeze(x, 2, (g, g), side)
    for thread_order, largest_grid in ((1, 0), (2, 0), (3, 3), (0, 1)):
        emulation.settings(thread_order, largest_grid)
        again = emulation.dual_squeeze(x, 2, (g, g), side)
        assert all(a.equal(b) for a, b in zip(once, again, strict=True))


# Of the forms of csrc/cuda/cluster_recurrence.cuh the largest matrix and one that leaves the last
# block without a row, on either side, with rows of whole packs of 16 bytes and without.
@pytest.mark.parametrize("side", ["channels", "positions"])
@pytest.mark.parametrize(
    "n", [64, 65, 95, 128, 129, 190, 256, 301, pytest.param(512, marks=pytest.mark.slow)]
)
def test_recurrences_in_clusters(emulation: Emulation, n: int, side: str) -> None:
    other = n + 7 if side == "channels" else n + 9
    sizes = (n, other) if side == "channels" else (other, n)
    check(emulation, features("dominant", 2, *sizes), side=side)


@pytest.mark.parametrize("kind", ["dominant", "large", "rectified"])
@pytest.mark.parametrize(("channels", "positions"), [(65, 66), (67, 65), (140, 150)])
def test_long_series_of_matrices_in_registers(
    emulation: Emulation, kind: str, channels: int, positions: int
) -> None:
    """For K = 7 products with the terms are rounded to float32, for K = 8 and more they are not."""
    for iterations in (7, 10):
        check(emulation, features(kind, 1, channels, positions), iterations)


@pytest.mark.parametrize(("device", "compiled_for"), [(80, 80), (90, 80)])
def test_without_clusters(emulation: Emulation, device: int, compiled_for: int) -> None:
    """A device without clusters, and one with clusters but kernels that predate them."""
    x = features("dominant", 2, 150, 170)
    clusters = emulation.native.emulated_clusters
    before = clusters()
    check(emulation, x)
    assert clusters() == before + 2  # forward and backward
    emulation.native.emulated_architectures(device, compiled_for)
    try:
        check(emulation, x)
    finally:
        emulation.native.emulated_architectures(90, 90)
    assert clusters() == before + 2


@pytest.mark.parametrize(("n", "room"), [(140, 1), (140, 2), (260, 4)])
def test_without_room_for_clusters(emulation: Emulation, n: int, room: int) -> None:
    """Too few multiprocessors in a part of a device for a cluster: one block does the work."""
    x = features("dominant", 2, n, n + 20)
    before = emulation.native.emulated_clusters()
    emulation.native.emulated_room(room)
    try:
        check(emulation, x)
    finally:
        emulation.native.emulated_room(8)
    assert emulation.native.emulated_clusters() == before


def test_launches_that_overlap_must_wait(emulation: Emulation) -> None:
    """The emulation sees a kernel that touches memory before the launch before has ended."""
    error = 719  # cudaErrorLaunchFailure
    for waits, expected in ((1, 0), (0, 1000 + error)):
        assert emulation.native.emulated_overlap(waits) == expected


# 256 blocks have work: one tile of a sample is summed in as many parts as they allow.
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("side", "free"), [(24, 1000), (24, 129), (90, 515)])
def test_a_matrix_in_parts(emulation: Emulation, side: int, free: int, layout: str) -> None:
    check(emulation, laid_out(features("dominant", 2, side, free), layout), 3, side="channels")
    check(emulation, laid_out(features("dominant", 2, free, side), layout), 3, side="positions")


def test_parts_of_a_matrix_cover_it(emulation: Emulation) -> None:
    """All of the sum, in at most 256 blocks where it has several parts, none of them empty."""
    found = (ctypes.c_int64 * 2)()
    cases = itertools.product((0, 1, 3, 50), (1, 64, 65, 200), (*range(1, 1200), 65537, 1 << 40))
    for batch, side, free in cases:
        arguments = (ctypes.c_int64(size) for size in (batch, side, free))
        emulation.native.emulated_gram_parts(*arguments, found)
        count, length = found
        assert (count - 1) * length < free <= count * length, (batch, side, free)
        across = -(-side // 64)
        blocks = count * batch * across * (across + 1) // 2
        assert count == 1 or (blocks <= 256 and length >= 128), (batch, side, free)


@pytest.mark.parametrize(("channels", "positions"), [(6, 10), (10, 6)])
def test_offsets_beyond_32_bits(emulation: Emulation, channels: int, positions: int) -> None:
    x = features("dominant", 2, channels, positions, dtype=torch.float16)
    g = upstream_of(x)
    near = emulation.dual_squeeze(x, 2, (g, g))
    stride = 2**31 + 1000

    def spread_out(shape, _, dtype):  # type: ignore[no-untyped-def]
        return reserved(shape, (stride, positions, 1), dtype)

    far = emulation.dual_squeeze(x, 2, (g, g), features_in=spread_out)
    assert all(a.equal(b) for a, b in zip(near, far, strict=True))


@pytest.mark.parametrize("layout", HARNESS_LAYOUTS)
@pytest.mark.parametrize(("channels", "positions"), [(6, 15), (20, 6)])
def test_the_backend_itself(
    emulation: Emulation, layout: str, channels: int, positions: int
) -> None:
    """ccdn_ops/ops/dual_squeeze/cuda.py, with the emulation behind it."""
    x = features("dominant", 2, channels, positions).view(2, channels, -1, 3)
    x = harness_layout(x, layout).flatten(2)
    grads = upstream_of(x), upstream_of(x, seed=3)
    with emulation.serving("dual_squeeze"):
        serving = registry.select("dual_squeeze", x, 3)
        first, second, *saved = serving.forward(x, 3)
        grad = serving.backward(*grads, x, *saved, 3)
    assert grad.stride() == torch.empty_like(x).stride()
    exact = truth(x.contiguous(), grads, 3)
    check_close((first, second, grad), exact, tolerances(x, grads, 3, exact))


def test_the_backend_serves_cuda_tensors_only() -> None:
    reason = supports(torch.ones(1, 2, 3), 5)
    assert reason == "the CUDA kernels serve CUDA tensors, not tensors on cpu"


def test_every_plan_fits_the_parameters(emulation: Emulation) -> None:
    assert max(itertools.chain(*TERMS.values())) <= emulation.native.emulated_max_terms()


def test_bad_arguments(emulation: Emulation, monkeypatch: pytest.MonkeyPatch) -> None:
    x = features("noise", 1, 3, 4)
    g = upstream_of(x)
    too_long = torch.zeros(1, emulation.native.emulated_max_terms() + 1, dtype=torch.float64)

    plan = dual_squeeze_plan(3, 4, 5, "float32", "cuda")
    plan = replace(plan, terms=too_long.shape[1], table=too_long.numpy())
    monkeypatch.setattr("cuda_emulation.dual_squeeze_plan", lambda *_: plan)
    with pytest.raises(RuntimeError, match=r"dual_squeeze_forward failed .* outside its limits"):
        emulation.dual_squeeze(x, 5, (g, g))


@pytest.mark.parametrize("rows", [3, 4])
def test_the_emulation_sees_a_touch_outside(emulation: Emulation, rows: int) -> None:
    """The guards work: a gram matrix one row too small stops the process."""
    code = (
        "from pathlib import Path\n"
        "from cuda_emulation import Emulation\n"
        "from harness import features, upstream\n"
        f"emulation = Emulation(Path({str(emulation.path)!r}))\n"
        "emulation.settings()\n"
        "x = features('noise', 1, 4, 9)\n"
        "g = upstream(x)\n"
        f"emulation.dual_squeeze(x, 2, (g, g), 'channels', gram_rows={rows})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == (-signal.SIGSEGV if rows == 3 else 0), done.stderr
