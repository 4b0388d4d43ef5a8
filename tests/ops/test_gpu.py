"""Every operator of the cuda and triton backends on a CUDA device; skipped without one.

`make gpu-check` runs these: the values and gradients of each dtype and layout against the float64
reference, a stream of the caller's, a captured CUDA graph, and two runs that must be bit-equal.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from harness import check_close
from operator_rows import OPERATORS, Operator, assert_equal, step
from torch import Tensor

from ccdn_ops import use_backend

pytestmark = pytest.mark.gpu

# Whole packs of 16 bytes, odd maps, more than a tile on either axis, and a single element.
SIZES = [
    {"B": 2, "P": 4, "D": 64, "R": 16, "H": 8, "W": 8},
    {"B": 3, "P": 2, "D": 65, "R": 17, "H": 7, "W": 7},
    {"B": 2, "P": 3, "D": 130, "R": 20, "H": 12, "W": 12},
    {"B": 1, "P": 1, "D": 1, "R": 1, "H": 1, "W": 1},
]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
CASES = [
    pytest.param(backend, operator, id=f"{backend}-{operator}")
    for backend in ("cuda", "triton")
    for operator in OPERATORS
]
every = pytest.mark.parametrize(("backend_name", "operator"), CASES)


@pytest.fixture
def device() -> str:
    return "cuda"


@pytest.fixture
def served(backend_name: str, operator: Operator, device: str) -> Iterator[None]:
    """The backend asked for by name; a skip where it cannot serve the operator."""
    with use_backend(backend_name):
        try:
            operator.call(*(t.detach().to(device) for t in operator.tensors()))
        except RuntimeError as error:
            if "which cannot serve" not in str(error):
                raise
            pytest.skip(str(error))
        yield


def on_device(
    operator: Operator,
    device: str,
    dtype: torch.dtype = torch.float32,
    layout: torch.memory_format = torch.contiguous_format,
    **sizes: int,
) -> list[Tensor]:
    tensors = [t.detach().to(device) for t in operator.tensors(dtype, **sizes)]
    if layout == torch.channels_last:
        tensors = [t.contiguous(memory_format=layout) if t.dim() == 4 else t for t in tensors]
    return [t.requires_grad_() for t in tensors]


@every
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=lambda s: "x".join(map(str, s.values())))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values(  # type: ignore[no-untyped-def]
    served, operator: Operator, device: str, dtype: torch.dtype, size: dict[str, int], layout
) -> None:
    tensors = on_device(operator, device, dtype, layout, **size)
    case = operator.case(tensors, f"{dtype} {size}")
    found = step(operator.call, tensors)
    assert all(y.dtype == dtype and y.device.type == "cuda" for y in found)
    names = [f"result {number}" for number, _ in enumerate(found)]
    check_close([y.cpu() for y in found], case.exact, case.allowed, case.what, names)


@every
def test_two_runs_are_bit_equal(served: None, operator: Operator, device: str) -> None:
    tensors = on_device(operator, device, **SIZES[2])
    assert_equal(step(operator.call, tensors), step(operator.call, tensors))


@every
def test_a_stream_of_the_callers(served: None, operator: Operator, device: str) -> None:
    """Work queued behind a slow write on a stream waits for it: nothing runs on another stream."""
    tensors = on_device(operator, device, **SIZES[0])
    wanted = step(operator.call, tensors)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        inputs = [torch.full_like(t, float("nan")) for t in tensors]
        torch.cuda._sleep(50_000_000)
        for late, t in zip(inputs, tensors, strict=True):
            late.copy_(t.detach())
        found = step(operator.call, [t.requires_grad_() for t in inputs])
    stream.synchronize()
    assert_equal(found, wanted)


@every
def test_captured_in_a_graph(served: None, operator: Operator, device: str) -> None:
    """Forward and backward in one CUDA graph, which computes anew from what the inputs hold."""
    tensors = on_device(operator, device, **SIZES[0])
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(operator.call, tensors)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step(operator.call, tensors)
    other = [t.detach().to(device) for t in operator.tensors(seed=1, **SIZES[0])]
    wanted = step(operator.call, [t.requires_grad_() for t in other])
    with torch.no_grad():
        for t, new in zip(tensors, other, strict=True):
            t.copy_(new)
    graph.replay()
    torch.cuda.synchronize()
    assert_equal(found, wanted)
