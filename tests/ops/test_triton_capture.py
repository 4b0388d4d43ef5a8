"""Triton's dual_squeeze where a CUDA graph captures its first call, and where threads share tables.

A capture may launch and may not copy from the host, and what is allocated meanwhile is the graph's.
No device is needed to see what the backend asks of torch: tensors on "meta" stand for the device's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch
from harness import features
from operator_rows import Operator, served_by, step
from torch import Tensor
from watched_calls import WatchedCalls

import ccdn_ops
from ccdn_ops.backends import registry
from ccdn_ops.backends.triton import launcher
from ccdn_ops.ops.dual_squeeze import triton as dual_squeeze
from ccdn_ops.plans import dual_squeeze_plan

pytest.importorskip("triton", reason="triton is not installed")

CPU = torch.device("cpu")


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


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Kernels that would have been launched, in order."""
    found: list[str] = []
    monkeypatch.setattr(launcher, "kernels", lambda name: mock.MagicMock())
    monkeypatch.setattr(launcher, "launch", lambda kernel, *rest, **options: found.append("launch"))
    return found


@pytest.mark.parametrize(
    "operator", [o for o in served_by("triton") if o.raw and o.name != "ctm"], ids=str
)
@pytest.mark.parametrize("sizes", [{"D": 8}, {"D": 40}], ids=["channels", "positions"])
def test_a_first_call_in_a_capture_copies_nothing(
    capture: Callable[[bool], None],
    launches: list[str],
    operator: Operator,
    sizes: dict[str, int],
) -> None:
    tensors = [t.detach().to("meta") for t in operator.tensors(**sizes)]
    assert operator.raw is not None
    inputs, options = operator.raw(*tensors)
    if operator.shapes == ["BDHW"]:
        inputs = [tensors[0].flatten(2)]
    implementation = registry.load(operator.name, "triton")
    assert implementation is not None
    capture(True)
    with WatchedCalls() as watched:
        found = implementation.forward(*inputs, *options)
        found = (found,) if isinstance(found, Tensor) else tuple(found)
        grads, saved = found[: operator.public], found[operator.public :]
        implementation.backward(*grads, *inputs, *saved, *options)
    assert not watched.from_host
    assert len(launches) >= 2
    assert not dual_squeeze._kept  # it would be the graph's memory


def test_a_copy_from_the_host_is_seen() -> None:
    table = dual_squeeze_plan(8, 20, 5, "float32", "cuda").table
    with WatchedCalls() as watched:
        dual_squeeze._copied(table, torch.device("meta"))
    assert "_to_copy" in watched.from_host


@pytest.mark.parametrize("iterations", range(1, 11))
def test_numbers_that_launches_carry_are_the_same(iterations: int) -> None:
    plan = dual_squeeze_plan(8, 20, iterations, "float32", "cuda")
    copied = dual_squeeze._copied(plan.table, CPU)
    carried = dual_squeeze._rows(dual_squeeze._carried(plan.table, CPU))
    assert all(a.equal(b) for a, b in zip(copied, carried, strict=True))


def test_a_captured_call_computes_the_same(capture: Callable[[bool], None]) -> None:
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
    with WatchedCalls() as watched, torch.inference_mode():
        kept = dual_squeeze._tables(plan, 5, CPU)
    assert not watched.names
    assert not any(table.is_inference() for table in kept)
    capture(True)
    assert dual_squeeze._tables(plan, 5, CPU) is kept  # also by graphs that come later


def test_threads_share_one_table(
    capture: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread waits while another makes the table: none that a graph holds is dropped."""
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
