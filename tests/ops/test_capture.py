"""First calls that a CUDA graph captures, and caches that threads share, in order on the CPU.

A capture may launch and may not copy from the host, and what is allocated meanwhile is the graph's.
No device is needed to see what a backend asks of torch: tensors on "meta" stand for the device's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch
from cuda_emulation import Emulation
from harness import features
from test_operators import OPERATORS, Operator, step
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import ccdn_ops
from ccdn_ops.backends import native, registry
from ccdn_ops.backends.triton import dual_squeeze, launcher
from ccdn_ops.plans import dual_squeeze_plan

CPU = torch.device("cpu")


class Watched(TorchDispatchMode):
    """What this thread asks of torch, and the tensors of the host among the arguments.

    Numbers without dimensions do not count: they travel with a launch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.from_host: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.names.append(func._opname)
        tensors = [
            t for t in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)
        ]
        if any(t.device.type == "cpu" and t.dim() for t in tensors):
            self.from_host.append(func._opname)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def capture(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Nothing was called yet; says whether a graph captures what is called now."""
    capturing = False
    monkeypatch.setattr(dual_squeeze, "_kept", {})
    monkeypatch.setattr(launcher, "captured", lambda device: capturing)

    def begin(now: bool) -> None:
        nonlocal capturing
        capturing = now

    return begin


# Triton -------------------------------------------------------------------------------------------


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Kernels that would have been launched, in order."""
    found: list[str] = []
    monkeypatch.setattr(launcher, "kernels", lambda name: mock.MagicMock())
    monkeypatch.setattr(launcher, "launch", lambda kernel, *rest, **options: found.append("launch"))
    return found


@pytest.mark.parametrize("channels", [8, 40])
def test_a_first_call_in_a_capture_copies_nothing(
    capture: Callable[[bool], None], launches: list[str], channels: int
) -> None:
    x = torch.empty(2, channels, 20, device="meta")
    capture(True)
    for iterations in (5, 10):
        with Watched() as watched:
            first, second, *saved = dual_squeeze.forward(x, iterations)
            dual_squeeze.backward(first, second, x, *saved, iterations)
        assert not watched.from_host
    assert len(launches) > 10
    assert not dual_squeeze._kept  # it would be the graph's memory
    plan = dual_squeeze_plan(channels, 20, 5, "float32", "cuda")
    with Watched() as watched:  # what is not made for a capture is seen
        dual_squeeze._copied(plan.table, x.device)
    assert watched.from_host


@pytest.mark.parametrize("iterations", range(1, 11))
def test_numbers_that_launches_carry_are_the_same(iterations: int) -> None:
    plan = dual_squeeze_plan(8, 20, iterations, "float32", "cuda")
    copied = dual_squeeze._copied(plan.table, CPU)
    carried = dual_squeeze._rows(dual_squeeze._carried(plan.table, CPU))
    assert all(a.equal(b) for a, b in zip(copied, carried, strict=True))


def test_a_captured_call_computes_the_same(capture: Callable[[bool], None]) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    if launcher.interpreted():
        pytest.skip("TRITON_INTERPRET=1 is set")
    from compiled_triton import executed

    x = features("dominant", 1, 8, 20).requires_grad_()
    found = []
    for now in (True, False):
        capture(now)
        with executed():
            found.append(step(partial(ccdn_ops.dual_squeeze, iterations=3), [x]))
        assert len(dual_squeeze._kept) == (0 if now else 1)
    assert all(a.equal(b) for a, b in zip(*found, strict=True))


def test_what_is_kept_is_not_of_this_threads_memory(capture: Callable[[bool], None]) -> None:
    """Where a graph's pool takes this thread's allocations, the tables are not among them."""
    plan = dual_squeeze_plan(8, 20, 5, "float32", "cuda")
    with Watched() as watched, torch.inference_mode():
        kept = dual_squeeze._tables(plan, 5, CPU)
    assert not watched.names
    assert not any(table.is_inference() for table in kept)
    capture(True)
    assert dual_squeeze._tables(plan, 5, CPU) is kept  # also by graphs that come later


def test_threads_share_one_table(
    capture: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks while another makes it waits: no table is dropped that a graph holds."""
    plan = dual_squeeze_plan(8, 20, 5, "float32", "cuda")
    original, made, found = dual_squeeze._copied, [], []
    asks = threading.Event()

    def ask() -> None:
        asks.set()
        found.append(dual_squeeze._tables(plan, 5, CPU))

    others = [threading.Thread(target=ask) for _ in range(4)]

    def copied(table: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
        made.append(table)
        for other in others:
            asks.clear()
            other.start()
            asks.wait()
        return original(table, device)

    monkeypatch.setattr(dual_squeeze, "_copied", copied)
    first = dual_squeeze._tables(plan, 5, CPU)
    for other in others:
        other.join()
    assert len(made) == 1
    assert len(found) == len(others)
    assert all(tables is first for tables in found)


def test_the_interpreter_is_repaired_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    from triton.runtime import interpreter

    from ccdn_ops.backends.triton.interpreter import repair_scalar_index

    def unrepaired(tensor: object, scope: object) -> None: ...

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", unrepaired)
    repair_scalar_index()
    once = interpreter._patch_lang_tensor
    assert once is not unrepaired
    threads = [threading.Thread(target=repair_scalar_index) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert interpreter._patch_lang_tensor is once


# CUDA ---------------------------------------------------------------------------------------------


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
    with emulation.serving(operator.name, guards=False), Watched() as watched:
        found = implementation.forward(*inputs, *options)
        grads, saved = found[: operator.public], found[operator.public :]
        implementation.backward(*grads, *inputs, *saved, *options)
    assert set(watched.names) <= ALLOCATIONS


@pytest.fixture
def device(emulation: Emulation, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A device of compute capability 9.0 that torch can use; the driver says 12.4 of itself."""
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
