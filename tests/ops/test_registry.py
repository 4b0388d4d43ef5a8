"""Which backend serves a call, how to ask for one by name, and what explain() says."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

import ccdn_ops
from ccdn_ops import dual_squeeze, use_backend
from ccdn_ops.backends import native, registry

X = torch.ones(2, 3, 4)


def test_named_backend_is_used_and_left(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = registry.load("dual_squeeze", "reference")
    assert real is not None

    def forward(*arguments):  # type: ignore[no-untyped-def]
        calls.append("forward")
        return real.forward(*arguments)

    spy = registry.Implementation(
        "dual_squeeze", "reference", forward, real.backward, real.supports
    )
    monkeypatch.setitem(registry._implementations, ("dual_squeeze", "reference"), spy)
    with use_backend("reference"):
        dual_squeeze(X)
        with use_backend(None):
            assert registry.override() is None
        assert registry.override() == "reference"
    assert calls == ["forward"]
    assert registry.override() is None


def test_named_backend_does_not_fall_back() -> None:
    with (
        use_backend("cuda"),
        pytest.raises(RuntimeError, match=r"asked to use the backend 'cuda'.*\(2, 3, 4\).*cpu: "),
    ):
        dual_squeeze(X)


def test_no_choice_of_backend_inside_a_graph() -> None:
    def choose(x: torch.Tensor) -> torch.Tensor:
        with use_backend("reference"):
            return dual_squeeze(x)[1]

    with pytest.raises(Exception, match="use_backend does nothing inside"):
        torch.compile(choose, fullgraph=True, backend="eager")(X)
    assert registry.override() is None


@pytest.mark.parametrize(
    ("archs", "ptx", "served", "refused"),
    [
        ("80 90 100", "100", [(8, 0), (8, 9), (9, 0), (10, 3), (12, 0)], [(7, 5)]),
        ("90", "90", [(9, 0), (10, 0)], [(8, 0), (8, 9)]),
        ("120 80", "80", [(8, 0), (9, 0), (12, 1)], [(7, 5)]),  # the last one is the PTX
        ("90a", "90a", [(9, 0)], [(8, 0), (10, 0)]),
        ("100f", "100f", [(10, 0), (10, 3)], [(9, 0), (12, 0)]),
    ],
)
def test_devices_that_a_build_serves(
    archs: str, ptx: str, served: list[tuple[int, int]], refused: list[tuple[int, int]]
) -> None:
    assert all(native._serves(tuple(archs.split()), ptx, *device) for device in served)
    assert not any(native._serves(tuple(archs.split()), ptx, *device) for device in refused)


def test_unknown_backend() -> None:
    with (
        pytest.raises(ValueError, match="backend is 'fast'; expected one of reference, cpu"),
        use_backend("fast"),
    ):
        pass
    with pytest.raises(ValueError, match="backend is 'fast'; expected one of"):
        registry.register("dual_squeeze", backend="fast", forward=print, backward=print)


@pytest.mark.parametrize(("value", "expected"), [("reference", "reference"), ("", "None")])
def test_environment(value: str, expected: str) -> None:
    code = "from ccdn_ops.backends import registry; print(registry.override())"
    done = python(code, CCDN_OPS_BACKEND=value)
    assert done.stdout.split() == [expected], done.stderr


@pytest.mark.parametrize(
    ("name", "expected"), [("CCDN_OPS_BACKEND", "reference, cpu"), ("CCDN_CPU_ISA", "base, x86-64")]
)
def test_wrong_environment(name: str, expected: str) -> None:
    done = python("import ccdn_ops", **{name: "fast"})
    assert done.returncode == 1
    assert f"{name} is 'fast'; expected one of {expected}" in done.stderr


def test_triton_on_cpu_only_when_asked_for() -> None:
    if registry.load("dual_squeeze", "triton") is None:
        pytest.skip(registry._load_errors["dual_squeeze", "triton"])
    code = "import torch, ccdn_ops\nprint(ccdn_ops.explain('dual_squeeze', 2, 3, 4).backend)\n"
    done = python(code, TRITON_INTERPRET="1")
    assert done.stdout.split()[0] in ("cpu", "reference"), done.stderr
    code += "with ccdn_ops.use_backend('triton'): ccdn_ops.dual_squeeze(torch.ones(2, 3, 4))"
    done = python(code, TRITON_INTERPRET="0")
    assert "asked to use the backend 'triton'" in done.stderr
    assert "TRITON_INTERPRET=1" in done.stderr


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_a_kernel_that_fails_is_an_error_with_the_operators_name() -> None:
    with pytest.raises(RuntimeError, match=r"ccdn::dual_squeeze failed .* outside its limits"):
        native.launch("dual_squeeze", lambda address: 2, X)


def test_a_launch_that_fails_is_an_error_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    cudart = SimpleNamespace(cudaError=int, cudaGetErrorString={98: "invalid function"}.get)
    monkeypatch.setattr(torch._C, "_cudart", cudart, raising=False)
    with pytest.raises(RuntimeError, match=r"ccdn::ctm failed .* cudaError_t 98, invalid function"):
        native.launch("ctm", lambda address: native.CUDA_ERROR + 98, X)


def test_launch_gives_addresses() -> None:
    seen = []
    native.launch("dual_squeeze", lambda *arguments: seen.append(arguments) or 0, X, 7)
    assert seen == [(X.data_ptr(), 7)]


def test_public_names() -> None:
    assert all(hasattr(ccdn_ops, name) for name in ccdn_ops.__all__)
    assert all(getattr(ccdn_ops, name).__doc__ for name in ccdn_ops.__all__ if name[0] != "_")
