"""Races of the CUDA kernels' threads, seen on the CPU (tests/ops/cuda_emulation/races.cpp).

Whatever the order in which threads run: two accesses without a barrier between them are found even
where they change no value.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import cuda_emulation
import pytest
import torch
from cuda_emulation import Emulation, build, compiler
from harness import features, upstream
from operator_rows import OPERATORS, Operator, step

import ccdn_ops

pytestmark = pytest.mark.slow

FAULTS = {
    "none": [],
    "no_barrier_before_reading": ["write, read", "read, write"],
    "no_barrier_after_reading": ["write, read", "read, write"],
    "barrier_too_early": ["write, read", "read, write"],
    "two_writers": ["write, write"],
    "nothing_written": ["a read of what was not written"],
    "copy_not_awaited": ["a read of a copy under way"],
    "copy_without_barrier": ["write, read", "read, write"],
    "copy_too_early": ["write, read", "read, write"],
    "blocks_write_the_same": ["write, write"],
    "blocks_read_each_other": ["write, read", "read, write"],
    "matrices_without_barrier": ["write, read", "read, write"],
}
# Several tiles of 64 on both axes, and of one side only; packs of 16 bytes and single elements;
# several chunks a map.
SIZES = [
    {"B": 2, "P": 3, "D": 80, "R": 20, "H": 8, "W": 9},
    {"B": 2, "P": 2, "D": 130, "R": 33, "H": 5, "W": 3},
    {"B": 3, "P": 2, "D": 5, "R": 2, "H": 12, "W": 12},
    {"B": 1, "P": 2, "D": 3, "R": 1, "H": 96, "W": 100},
]
# Only maps have a layout.
CASES = [
    pytest.param(operator, layout, id=f"{operator}-{layout}")
    for operator in OPERATORS
    for layout in (torch.contiguous_format, torch.channels_last)
    if operator.name in cuda_emulation.operators()
    and (layout == torch.contiguous_format or len(operator.shapes[0]) == 4)
]


@pytest.fixture(scope="session")
def racing(tmp_path_factory: pytest.TempPathFactory) -> Emulation:
    """The CUDA kernels for the CPU, all of their reads and writes watched."""
    if compiler() is None:
        pytest.skip("g++ and objcopy are not installed")
    return Emulation(build(tmp_path_factory.mktemp("races"), races=True))


@pytest.fixture
def backend(racing: Emulation) -> Iterator[str]:
    with racing.serving():
        yield "cuda"


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_found(racing: Emulation, fault: str) -> None:
    racing.settings()
    assert racing.native.emulated_fault(list(FAULTS).index(fault)) & 1
    kinds = {line.partition(":")[0] for line in racing.races()}
    assert kinds >= set(FAULTS[fault])
    assert bool(kinds) == bool(FAULTS[fault])
    assert not racing.native.emulated_fault(len(FAULTS)) & 1


@pytest.mark.parametrize(("operator", "layout"), CASES)
@pytest.mark.parametrize("size", SIZES, ids=lambda s: "-".join(map(str, s.values())))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_no_races(
    backend: str,
    racing: Emulation,
    operator: Operator,
    size: dict[str, int],
    layout: torch.memory_format,
    dtype: torch.dtype,
) -> None:
    """A block for each piece of work; then so few that each has several, one after another."""
    tensors = [t.detach() for t in operator.tensors(dtype, **size)]
    tensors = [t.contiguous(memory_format=layout) if t.dim() == 4 else t for t in tensors]
    for largest_grid in (0, 2):
        racing.settings(largest_grid=largest_grid)
        step(operator.call, [t.requires_grad_() for t in tensors])
        assert not racing.races()


@pytest.mark.parametrize("iterations", range(1, 11))
def test_matrices_that_share_memory(backend: str, racing: Emulation, iterations: int) -> None:
    """If no gradient is requested, few matrices are kept, one after another in the same place."""
    call = partial(ccdn_ops.isqrt_cov, iterations=iterations, triu=iterations % 2 == 0)
    for channels, positions in ((66, 70), (75, 66)):  # by channels and by positions
        x = features("noise", 1, channels, positions)
        call(x)
        step(call, [x.requires_grad_()])
    assert not racing.races()


@pytest.mark.parametrize("turned", [False, True])
def test_tiles_of_bfloat16(backend: str, racing: Emulation, turned: bool) -> None:
    """On the diagonal and not, more slices of positions than there is room for."""
    x = features("noise", 1, 136, 168, dtype=torch.bfloat16)
    for largest_grid in (0, 2):
        racing.settings(largest_grid=largest_grid)
        ccdn_ops.covariance_pool(x.mT.contiguous().mT if turned else x)
        assert not racing.races()


def test_more_entries_than_threads(racing: Emulation) -> None:
    """A matrix of dual_squeeze whose columns do not fit into a block."""
    racing.settings()
    for dtype in (torch.float32, torch.float64):
        x = features("noise", 1, 514, 3, dtype=dtype)
        racing.dual_squeeze(x, 2, (upstream(x), upstream(x)), "channels")
    assert not racing.races()


@pytest.mark.parametrize("largest_grid", [0, 1])
@pytest.mark.parametrize(("channels", "positions"), [(140, 150), (150, 140), (260, 262)])
def test_clusters(racing: Emulation, channels: int, positions: int, largest_grid: int) -> None:
    """Matrices in the registers of four and eight blocks, which send each other their rows."""
    racing.settings(largest_grid=largest_grid)
    x = features("noise", 2, channels, positions)
    before = racing.native.emulated_clusters()
    racing.dual_squeeze(x, 2, (upstream(x), upstream(x)))
    assert racing.native.emulated_clusters() == before + 2
    assert not racing.races()
