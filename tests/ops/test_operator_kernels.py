"""What the native kernels of every operator promise: no write outside, no copy, the same bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from harness import laid_out
from operator_rows import OPERATORS, Operator, assert_equal, outputs_of, step
from watched_memory import WatchedMemory

import ccdn_ops
from ccdn_ops.backends import native

every = pytest.mark.parametrize("operator", OPERATORS, ids=str)
of_maps = pytest.mark.parametrize(
    "operator", [operator for operator in OPERATORS if operator.shapes[0] == "BDHW"], ids=str
)
needs_kernels = pytest.mark.skipif(native.module() is None, reason=str(native.why_missing()))
# Both sides of the matrix operators, vectors and panels full and not, one sample or more.
SIZES = [
    {"B": 1, "D": 65, "R": 17, "H": 7, "W": 7},
    {"B": 5, "P": 5, "D": 33, "R": 9, "H": 8, "W": 9},
    {"B": 3, "P": 1, "D": 7, "R": 1, "H": 1, "W": 3},
    {"B": 17, "P": 2, "D": 40, "R": 10, "H": 4, "W": 8},
]


@needs_kernels
@every
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "batch_strided"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_nothing_is_written_outside(operator: Operator, layout: str, dtype: torch.dtype) -> None:
    if layout != "contiguous" and operator.shapes[0] != "BDHW":
        pytest.skip("it takes no maps")
    for sizes in SIZES:
        tensors = operator.tensors(dtype, **sizes)
        if operator.shapes[0] == "BDHW":
            tensors[0] = laid_out(tensors[0].detach(), layout).requires_grad_()
        with ccdn_ops.use_backend("cpu"):
            with WatchedMemory() as memory:
                found = step(operator.call, tensors)
            memory.assert_guards_untouched()
            assert all(y.isfinite().all() for y in found)
            assert_equal(found, step(operator.call, tensors))


@needs_kernels
@of_maps
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_map_is_copied(operator: Operator, layout: str, dtype: torch.dtype) -> None:
    tensors = operator.tensors(dtype, B=64, P=1, D=8, H=32, W=41)
    x = tensors[0] = laid_out(tensors[0].detach(), layout).requires_grad_()
    outputs = outputs_of(operator.call, [t.detach() for t in tensors])
    grads = [laid_out(y, layout) if y.dim() == 4 else y for y in map(torch.ones_like, outputs)]
    with ccdn_ops.use_backend("cpu"), WatchedMemory() as memory:
        torch.autograd.grad(outputs_of(operator.call, tensors), tensors, grads)
    large = [(by, size) for by, size in memory.allocated if size >= x.nbytes]
    assert len(large) == operator.maps, large
    # The gradient that ctm's squeezes give lies in scratch memory, with what is small.
    assert all(size < 1.1 * x.nbytes and "empty" in by for by, size in large), large


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@needs_kernels
@every
@pytest.mark.parametrize(
    "sizes",
    [{"B": 1, "D": 170, "R": 42, "H": 10, "W": 16}, {"B": 3, "D": 33, "H": 7, "W": 8}],
    ids=str,
)
def test_bits_do_not_depend_on_the_thread_count(  # type: ignore[no-untyped-def]
    threads, operator: Operator, sizes: dict[str, int]
) -> None:
    tensors = operator.tensors(**sizes)
    with ccdn_ops.use_backend("cpu"):
        threads(1)
        alone = step(operator.call, tensors)
        for count in (2, 3):
            threads(count)
            assert_equal(step(operator.call, tensors), alone)
