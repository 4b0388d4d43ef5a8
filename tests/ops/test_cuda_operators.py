"""The CUDA kernels of every operator on the CPU (tests/ops/cuda_emulation).

What tests/ops/test_operators.py asks of every backend is asked of them too; then come the shapes
that make their paths differ, both layouts, and the order in which threads run. Races are in
test_cuda_races.py; what a device alone can show (its memory model, speed) is not here.

Why so many rows: every kernel is a template over the element type, the layout and packed or single
elements, and each of these instances has index arithmetic of its own, which only a run of it shows.
`test_shapes` takes the five operators without a file of their own through 4 types, 7 sizes (one for
each branch of the index arithmetic) and 3 layouts. A row costs 0.07 s; compiling the kernels, once,
costs as much as 700 rows.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Iterator
from dataclasses import replace
from unittest import mock

import cuda_emulation
import pytest
import torch
from cuda_emulation import Emulation
from far_memory import (
    CHANNELS,
    CONTIGUOUS_MATRICES,
    FAR_CALLS,
    FAR_GATES,
    FarCall,
    FarGates,
    check_last_sample,
    spread_out,
)
from operator_rows import OPERATORS, Operator, assert_equal, step
from test_dual_squeeze import (  # noqa: F401
    test_a_covariance_that_overflows_shows,
    test_any_scale,
)
from test_operators import (  # noqa: F401
    test_a_sample_without_variance,
    test_autocast_changes_nothing,
    test_dtypes,
    test_empty_batch,
    test_how_little_variance_is_rounding,
    test_nan_stays_in_its_sample,
    test_no_gradient_is_asked_of_frozen_tensors,
    test_one_of_everything,
    test_opcheck,
    test_vmap,
)
from torch import Tensor

import ccdn_ops
from ccdn_ops.backends import native, structs

SERVED = [operator for operator in OPERATORS if operator.name in cuda_emulation.operators()]
# The others have files of their own.
OWN_FILES = ("dual_squeeze", "covariance_pool", *CONTIGUOUS_MATRICES, "isqrt_cov")
every = pytest.mark.parametrize("operator", [o for o in SERVED if o.name not in OWN_FILES], ids=str)


@pytest.fixture
def backend(request: pytest.FixtureRequest, emulation: Emulation) -> Iterator[str]:
    """ "cuda" for CPU tensors; what the tests that are imported above run on."""
    operator = request.node.callspec.params.get("operator")
    if operator is not None and operator not in SERVED:
        pytest.skip("it has no CUDA kernels")
    with emulation.serving():
        yield "cuda"


# Whole packs of 16 bytes; lines that break within a pack; single elements; several blocks a line;
# several chunks a map; more excitations than usual; one of everything.
SIZES = [
    {"B": 2, "P": 3, "D": 16, "R": 4, "H": 4, "W": 4},
    {"B": 2, "P": 4, "D": 24, "R": 6, "H": 7, "W": 7},
    {"B": 1, "P": 2, "D": 9, "R": 2, "H": 5, "W": 3},
    {"B": 1, "P": 2, "D": 3, "R": 1, "H": 96, "W": 100},
    {"B": 2, "P": 2, "D": 264, "R": 66, "H": 3, "W": 4},
    {"B": 1, "P": 9, "D": 40, "R": 10, "H": 33, "W": 1},
    {"B": 1, "P": 1, "D": 1, "R": 1, "H": 1, "W": 1},
]
LAYOUTS = ("contiguous", "channels_last", "padded")


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same numbers; "padded": what lies between the samples of a larger tensor."""
    x = x.detach()
    if x.dim() == 4 and layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    elif x.dim() > 1 and layout == "padded":
        room = x.new_full((x.shape[0], x.shape[1] + 1, *x.shape[2:]), float("nan"))
        room[:, 1:] = x
        x = room[:, 1:]
    return x.requires_grad_()


@every
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", SIZES, ids=lambda s: "-".join(map(str, s.values())))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_shapes(
    backend: str, operator: Operator, dtype: torch.dtype, size: dict[str, int], layout: str
) -> None:
    tensors = operator.tensors(dtype, **size)
    case = operator.case(tensors, f"{dtype} {layout} {size}")
    replace(case, tensors=[laid_out(t, layout) for t in tensors]).check(operator.call)


@pytest.mark.parametrize(
    # isqrt_cov, too, which has the kernels of the two other matrix operators.
    "operator",
    [o for o in SERVED if o.name not in OWN_FILES or o.name == "isqrt_cov"],
    ids=str,
)
@pytest.mark.parametrize("size", SIZES[1:5:3], ids=lambda s: "-".join(map(str, s.values())))
@pytest.mark.parametrize("layout", LAYOUTS[:2])
def test_barriers(
    backend: str, emulation: Emulation, operator: Operator, size: dict[str, int], layout: str
) -> None:
    """The order in which threads run between barriers, and the grid's size, change no bit."""
    tensors = [laid_out(t, layout) for t in operator.tensors(**size)]
    once = step(operator.call, tensors)
    for thread_order, largest_grid in ((1, 0), (2, 0), (3, 3), (0, 1)):
        emulation.settings(thread_order, largest_grid)
        assert_equal(step(operator.call, tensors), once)


# Beyond 2^31 elements -----------------------------------------------------------------------------


@pytest.fixture
def unguarded(emulation: Emulation) -> Iterator[str]:
    """As backend; tensors are where they are, because guards would fill them."""
    with emulation.serving(guards=False):
        yield "cuda"


@pytest.mark.parametrize(
    "operator",
    # The others' backends get contiguous tensors.
    [o for o in SERVED if o.name not in ("excitation_gates", *CONTIGUOUS_MATRICES)],
    ids=str,
)
def test_offsets_beyond_32_bits(unguarded: str, operator: Operator) -> None:
    near = [t.detach() for t in operator.tensors(torch.float16, B=2)]
    far = [spread_out(near[0], 2**31 + 1000), *near[1:]]
    found = [step(operator.call, [t.requires_grad_() for t in ts]) for ts in (near, far)]
    assert_equal(*found)


@pytest.mark.parametrize(
    "call", [c for c in FAR_CALLS if c.operator in cuda_emulation.operators()], ids=str
)
def test_samples_beyond_32_bits(unguarded: str, emulation: Emulation, call: FarCall) -> None:
    check_last_sample("cuda", call, emulation.only_last)


@pytest.mark.parametrize("gates", FAR_GATES, ids=str)
def test_gates_beyond_32_bits(unguarded: str, emulation: Emulation, gates: FarGates) -> None:
    """Launches of tiles of 32 samples, or of one network's weights; of 32 sums behind them."""
    down = -(-gates.batch // 32)
    both = [down - 1, 2 * down - 1]  # networks, of one excitation, or squeezes
    if gates.many_samples:
        forward = [both, [down - 1]]
        backward = [both, both]
    else:
        networks = 2 * gates.excitations
        last, sums = [networks - 2, networks - 1], networks * CHANNELS // 32
        forward = [last, [gates.excitations - 1]]
        backward = [[*last, *(networks + b for b in last), 2 * networks + sums - 1]]
        backward += [[*(2 + b for b in last), 2 + networks + sums - 1]]
    gates.check("cuda", lambda: emulation.only(forward), lambda: emulation.only(backward))


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(("batch", "channels"), [(2**40 + 1, 300), (2**20 + 3, 2**30)])
def test_sums_of_cocs_beyond_32_bits(
    emulation: Emulation, batch: int, channels: int, backward: bool
) -> None:
    """How large the workspace of two levels is: the second one's place is beyond the first's."""
    sizes = [(batch, 5, channels), (7, 3, 11)]
    levels = array("q", [n for size in sizes for n in (0, 0, *size, 0, 0, 0, 0)])
    shape = emulation.module.CocsShape(dtype=0, count=2, levels=levels.buffer_info()[0])
    found = emulation.module.cocs_loss_workspace_cuda(shape, backward)
    wanted = 0
    for b, p, d in sizes:
        samples = min(max(4096 // d, 1), 64)
        chunks = 1 if backward else -(-b // samples)
        wanted += 8 * (p * p + chunks * p * d)
    assert found == wanted


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_kernels_of_multi_excite_refuse_16_bit_gates(
    emulation: Emulation, dtype: torch.dtype
) -> None:
    with emulation.serving():
        shape = structs.multi_excite_shape(torch.empty(1, 3, 2, 2, dtype=dtype), 4, dtype, 1)
        assert native.require().multi_excite_forward_cuda(shape, *[0] * 4) == 2
        assert native.require().multi_excite_backward_cuda(shape, *[0] * 7) == 2


def test_a_launch_that_fails_says_why(emulation: Emulation) -> None:
    x, gates = torch.ones(1, 4, 2, 2), torch.ones(1, 3, 4)
    with (
        emulation.serving(),
        mock.patch.object(native, "stream", return_value=1),  # which is invalid
        pytest.raises(RuntimeError, match=r"ccdn::multi_excite failed .* cudaError_t 400"),
    ):
        ccdn_ops.multi_excite(x, gates)


def test_divisions(emulation: Emulation) -> None:
    """Places in maps beyond 2^31 elements, and beyond 2^32."""
    quotient = emulation.native.emulated_quotient
    quotient.restype = ctypes.c_int64
    for a in (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 7, 3 * 2**40 + 5):
        for b in (1, 3, 2**31 - 1, 2**31 + 3, 2**32 - 1, 2**32, 2**33 + 1):
            assert quotient(ctypes.c_int64(a), ctypes.c_int64(b)) == a // b


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("pack", [1, 4])
def test_places_beyond_32_bits(emulation: Emulation, pack: int, channels_last: bool) -> None:
    batch, excitations, channels, positions = 2**20 + 1, 5, 70_000, 80_000
    numbers = (ctypes.c_int64 * 8)()
    sizes = [ctypes.c_int64(n) for n in (batch, excitations, channels, positions)]
    at = ctypes.c_int64(2**20), ctypes.c_int64(3)
    emulation.native.emulated_excite_plan(*sizes, int(channels_last), pack, *at, numbers)
    map_, plane, gate, tiles, bands, chunks, columns, rows = numbers
    assert map_ == channels * positions
    assert plane == (2**20 * excitations + 3) * channels * positions
    assert gate == (2**20 * excitations + 3) * channels
    length, lines = (channels, positions) if channels_last else (positions, channels)
    assert (tiles - 1) * columns < length <= tiles * columns
    assert (bands - 1) * rows < lines <= bands * rows
    assert chunks == (bands if channels_last else tiles)


def test_a_rehearsal_lists_the_launches_and_runs_none(emulation: Emulation) -> None:
    """In order, as many as a call makes, each with the kernel's name and its size."""
    x = torch.ones(2, 3, 4, 5)
    gates = torch.ones(2, 2, 3)
    with emulation.serving(guards=False), emulation.rehearsing() as launches:
        found = ccdn_ops.multi_excite(x, gates)
    assert found.isnan().all()  # as it came
    [launch] = launches
    assert launch.symbol.startswith("_ZN4ccdn4cuda6exciteIfLi4E")
    assert (launch.blocks, launch.threads, launch.cluster, launch.bytes) == (2, 256, 1, 0)
    with emulation.serving(guards=False):
        assert (ccdn_ops.multi_excite(x, gates) == 1).all()
    # A cluster, its size and its memory.
    with emulation.serving(guards=False), emulation.rehearsing() as launches:
        ccdn_ops.dual_squeeze(torch.ones(3, 256, 300))
    [cluster] = [launch for launch in launches if launch.cluster > 1]
    assert "cluster_squeeze" in cluster.symbol
    assert cluster.blocks == 3 * cluster.cluster
    assert cluster.bytes >= 2 * 8 * 128
    assert [launch.overlaps for launch in launches] == [0, *[1] * (len(launches) - 1)]
    with emulation.serving(guards=False), emulation.rehearsing() as launches:
        pass
    assert launches == []
