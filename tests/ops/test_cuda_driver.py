"""What the CUDA backend asks of torch and of the driver, with the emulated module in place."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from unittest import mock

import pytest
import torch
from cuda_emulation import Emulation
from operator_rows import OPERATORS, Operator
from watched_calls import WatchedCalls

from ccdn_ops.backends import native, registry

# What asks for memory or looks at it anew; everything else would be a launch of torch's or a copy.
ALLOCATIONS = {
    "empty",
    "new_empty",
    "empty_like",
    "empty_strided",
    "view",
    "detach",
    "_unsafe_view",
}


@pytest.mark.parametrize(
    "operator", [o for o in OPERATORS if o.name in ("dual_squeeze", "ctm")], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_a_first_call_allocates_and_launches(
    emulation: Emulation, operator: Operator, dtype: torch.dtype
) -> None:
    """Whether the table travels with its kernel (float32) or is stored first (float64)."""
    tensors = [t.detach() for t in operator.tensors(dtype)]
    assert operator.raw is not None
    inputs, options = operator.raw(*tensors)
    if operator.name == "dual_squeeze":
        inputs = [tensors[0].flatten(2)]
    implementation = registry.load(operator.name, "cuda")
    assert implementation is not None
    with emulation.serving(operator.name, guards=False), WatchedCalls() as watched:
        found = implementation.forward(*inputs, *options)
        grads, saved = found[: operator.public], found[operator.public :]
        implementation.backward(*grads, *inputs, *saved, *options)
    assert set(watched.names) <= ALLOCATIONS


@pytest.fixture
def device(emulation: Emulation, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A device of compute capability 9.0 that torch can use, with a driver of version 12.4."""
    monkeypatch.setattr(native, "_C", emulation.module)
    monkeypatch.setattr(native, "_refusals", {})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "device", lambda index: mock.MagicMock())
    yield
    emulation.native.emulated_driver(0, 13000)


INSUFFICIENT = 35
CUDA = torch.device("cuda", 0)


def questions(emulation: Emulation, error: int) -> int:
    return int(emulation.native.emulated_driver(error, 12040))


def test_a_driver_that_is_too_old_is_a_reason(device: None, emulation: Emulation) -> None:
    questions(emulation, INSUFFICIENT)
    reason = native.why_no_cuda_kernels(CUDA)
    assert reason is not None
    assert reason.startswith(
        "the CUDA kernels were built with CUDA 13.0, the driver is for CUDA 12.4, and they cannot "
        "start: CUDA driver version is insufficient for CUDA runtime version (cudaError_t 35)"
    )
    before = questions(emulation, 0)
    assert native.why_no_cuda_kernels(CUDA) == reason
    assert questions(emulation, 0) == before
    assert native.why_no_cuda_kernels() is None  # what was built is there


def test_a_driver_that_serves_is_asked_once(device: None, emulation: Emulation) -> None:
    before = questions(emulation, 0)
    threads = [threading.Thread(target=native.why_no_cuda_kernels, args=(CUDA,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert native.why_no_cuda_kernels(CUDA) is None
    assert questions(emulation, 0) == before + 1


def test_a_capture_asks_nothing(
    device: None, emulation: Emulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = questions(emulation, INSUFFICIENT)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert native.why_no_cuda_kernels(CUDA) is None
    assert questions(emulation, INSUFFICIENT) == before
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert native.why_no_cuda_kernels(CUDA) is not None
