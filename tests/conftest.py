"""Fixtures for all tests: reference material and backends, each skip with its reason."""

from __future__ import annotations

import importlib
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from ccdn_ops import use_backend
from ccdn_ops.backends import native, registry
from ccdn_ops.backends.triton.launcher import interpreted


def pytest_configure() -> None:
    # In the background of a shell script Ctrl-C is ignored, also by the processes that tests start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if interpreted():  # a process that is there for one backend
        items[:] = [item for item in items if "backend" in getattr(item, "fixturenames", ())]
    if not torch.cuda.is_available():
        no_device = pytest.mark.skip(reason="needs a CUDA device; torch sees none")
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(no_device)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real photographs and published results, which the project does not ship."""
    folder = os.environ.get("CCDN_SHARED")
    if not folder:
        pytest.skip("CCDN_SHARED names no folder with reference material")
    path = Path(folder)
    if not path.is_dir():
        pytest.fail(f"CCDN_SHARED is {folder!r}, which is not a folder")
    return path


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """A module of benchmarks/ by its name."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Iterator[None]:
    """Tests on every backend skip what one leaves to the others."""
    try:
        return (yield)
    except Exception as error:  # the refusal, or opcheck's that repeats it
        left = [NOT_THERE, *LEFT_TO_OTHERS.get(registry.override() or "", [])]
        if not any(re.search(reason, str(error)) for reason in left):
            raise
        pytest.skip(str(error))


# Triton serves CPU tensors in its interpreter, for which tests/ops/test_triton.py starts a process.
SERVE_CPU_TENSORS = ["triton"] if interpreted() else list(registry.ORDER["cpu"])
# What a backend may refuse to serve, as its `supports` says it; every other refusal is a failure.
LEFT_TO_OTHERS = {"triton": ["the Triton kernels have no float64"]}
# A backend without kernels of an operator; the table in docs/benchmarks.md says which those are.
NOT_THERE = r"the (cpu|triton|cuda) backend has no \w+"


@pytest.fixture(params=SERVE_CPU_TENSORS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each backend that serves CPU tensors, asked for by name."""
    if request.param == "cpu" and native.module() is None:
        pytest.skip(native.why_missing())
    with use_backend(request.param):
        yield request.param
