"""The optional module of direct calls in C++ (csrc/torch): which one is loaded, and what
it refuses. test_direct.py and test_direct_backward.py run every direct call in it, too.
"""

from __future__ import annotations

import gc
import importlib.machinery
import importlib.util
import subprocess
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ccdn_ops.backends import compiled, native, structs
from ccdn_ops.names import direct_module

needed = pytest.mark.skipif(compiled.module() is None, reason=str(compiled.why_missing()))


class Loader:
    """Of a module with some interface."""

    def __init__(self, interface: str) -> None:
        self.interface = interface

    def create_module(self, spec: Any) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        module.interface = self.interface  # type: ignore[attr-defined]


@pytest.fixture
def found(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The spec that a search finds, and the names that were searched."""
    if native.module() is None:
        pytest.skip(str(native.why_missing()))
    spec, names = importlib.machinery.ModuleSpec("direct", None), []  # type: ignore[var-annotated]
    spec.origin = str(tmp_path / "direct.so")
    spec.has_location = True
    (tmp_path / "direct.so").write_bytes(b"")

    def find(name: str) -> Any:
        names.append(name)
        return spec

    monkeypatch.setattr(importlib.util, "find_spec", find)
    return [spec, names]


def test_its_name_has_the_version_of_torch() -> None:
    assert direct_module("2.13.0+cpu") == "_direct_2_13_0_cpu"
    assert direct_module("2.15.0a0+git1234567") == "_direct_2_15_0a0_git1234567"


def test_one_for_this_torch_is_searched(found: list[Any]) -> None:
    spec, names = found
    spec.loader = Loader(native.interface())
    module, why = compiled._imported()
    assert module is not None
    assert why is None
    assert names == [f"ccdn_ops.{direct_module(torch.__version__)}"]


def test_one_of_other_sources_is_refused(found: list[Any]) -> None:
    found[0].loader = Loader("other")
    module, why = compiled._imported()
    assert module is None
    assert f"has interface other, expected {native.interface()}" in str(why)


def test_one_that_is_cut_short_is_refused(found: list[Any]) -> None:
    spec, _ = found
    spec.loader = Loader(native.interface())
    with open(spec.origin, "wb") as file:
        file.write(b"\x7fELF\x02\x01" + bytes(34) + (1 << 20).to_bytes(8, "little") + bytes(16))
    module, why = compiled._imported()
    assert module is None
    assert "is cut short" in str(why)


def test_none_for_this_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert compiled._imported() == (None, f"not built for torch {torch.__version__}")


# What it does ------------------------------------------------------------------------------------


def bound(x: Tensor, dtype: int) -> Any:
    """covariance_pool of x (2, 5, 12) with a struct of the given dtype code."""
    shape = native.require().CovarianceShape(
        dtype=dtype, batch=2, channels=5, positions=12, stride_b=60, stride_d=12, stride_n=1
    )
    module = compiled.module()
    assert module is not None
    return module.Kernels(
        forward=native.require().packed["covariance_pool_forward_cpu"],
        backward=native.require().packed["covariance_pool_backward_cpu"],
        failure=lambda name, status: native.failure("covariance_pool" + name, status),
        owner=shape,
        without=(shape.address, [1 << 16], 1 << 17),
        saving=(shape.address, [0], 1 << 17),
        backward_scratch=1 << 17,
        outputs=(torch.empty(2, 5, 5, device="meta"),),
        gradients=(torch.empty_like(x, device="meta"),),
        saved=torch.empty(16, device="meta"),
        scratch=True,
        zeros=True,
        workers=1,
        kept=0,
    )


@needed
def test_a_kernel_that_fails_raises() -> None:
    x = torch.randn(2, 5, 12)
    functions = bound(x, dtype=99)
    upstream = torch.ones(2, 5, 5)
    for call in (
        lambda: functions.inference(x),
        lambda: functions.forward(x),
        lambda: functions.backward((upstream,), (x, torch.empty(16))),
    ):
        with pytest.raises(RuntimeError, match=r"covariance_pool.* failed in its native kernel"):
            call()


@needed
def test_only_tensors_are_taken() -> None:
    x = torch.randn(2, 5, 12)
    functions = bound(x, structs.DTYPE_CODES[x.dtype])
    for wrong in (None, 3, "x", [1.0]):
        with pytest.raises(TypeError, match="expected a tensor"):
            functions.inference(wrong)
    with pytest.raises(TypeError, match="found 2 inputs, expected 1"):
        functions.forward(x, x)
    upstream, saved = torch.ones(2, 5, 5), torch.empty(16)
    with pytest.raises(TypeError, match="expected a tensor"):
        functions.backward((upstream,), (x, None))
    with pytest.raises(TypeError, match="found 0 gradients, expected 1"):
        functions.backward((), (x, saved))
    with pytest.raises(TypeError, match="found 1 tensors, expected 2"):
        functions.backward((upstream,), (x,))


@needed
def test_methods_check_their_arguments() -> None:
    """They are called without pybind11, which would."""
    x = torch.randn(2, 5, 12)
    functions = bound(x, structs.DTYPE_CODES[x.dtype])
    module = compiled.module()
    assert module is not None
    kept, expected = module.Recent(None, 2), module.Expected((x,), ())
    for call in (
        lambda: kept.serve((x,), ()),
        lambda: kept.serve([x], (), None),
        lambda: kept.serve((x,), None, None),
        lambda: kept.serve(inputs=(x,), options=(), state=None),
        lambda: expected.fits((x,)),
        lambda: expected.fits([x], ()),
        lambda: functions.backward((x,)),
        lambda: functions.backward([x], (x, x)),
        lambda: functions.inference(),
        lambda: functions.inference(x=x),
        lambda: type(functions).inference(x),
    ):
        with pytest.raises(TypeError):
            call()


@needed
def test_an_error_keeps_nothing() -> None:
    x, saved = torch.randn(2, 5, 12), torch.empty(16)
    functions, upstream = bound(x, dtype=99), torch.ones(2, 5, 5)

    def fail() -> None:
        for call, arguments in (
            (functions.inference, (x,)),
            (functions.forward, (x,)),
            (functions.backward, ((upstream,), (x, saved))),
            (functions.backward, ((upstream,), (x, None))),
        ):
            with pytest.raises((RuntimeError, TypeError)):
                call(*arguments)

    def references() -> list[int]:
        gc.collect()
        return [sys.getrefcount(tensor) for tensor in (x, saved, upstream)]

    before = references()
    fail()
    assert references() == before


@needed
def test_it_forgets_its_scratch_memory() -> None:
    """Memory that is filled anew shows whether a kernel reads what it did not write."""
    module = compiled.module()
    assert module is not None
    x = torch.randn(2, 5, 12)
    functions = bound(x, structs.DTYPE_CODES[x.dtype])
    wanted = functions.inference(x)
    module.forget()
    assert functions.inference(x).equal(wanted)


@needed
def test_a_first_call_within_a_transform_changes_nothing() -> None:
    """What a thread usually is must not be learnt from one that is mapped over."""
    code = """
import torch, ccdn_ops
from ccdn_ops.backends import registry
from ccdn_ops.ops.covariance_pool import _covariance_pool
x = torch.randn(2, 5, 3, 4)
torch.vmap(ccdn_ops.covariance_pool)(x[None])
for _ in range(4):
    ccdn_ops.covariance_pool(x)
def served():
    return _covariance_pool.direct.recent.serve((x,), (), registry.state()) is not None
found = [served()]
torch.func.grad(lambda y: found.append(served()) or y)(torch.ones(()))
with torch.inference_mode():
    found.append(served())
print(*found)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False", "True"]


@needed
def test_what_is_dropped_may_look_at_what_is_kept() -> None:
    found: list[int] = []

    class Call:
        bound = SimpleNamespace(inference=None)

        def __del__(self) -> None:
            found.append(len(kept))

    module = compiled.module()
    assert module is not None
    kept = module.Recent(None, 2)
    for _ in range(3):
        kept.add((torch.empty(2),), (), None, Call())
    del Call.__del__  # of the one that is left
    assert found == [1, 1]
