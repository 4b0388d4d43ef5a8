"""The Triton kernels without a GPU: right in the interpreter, and compiled for the devices.

Each half needs a process of its own, because TRITON_INTERPRET is read when triton is imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

import ccdn_ops
from ccdn_ops.backends.triton import dual_squeeze as backend

pytest.importorskip("triton", reason="triton is not installed")

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# The architectures in the order in which a short run prefers them.
ARCHS = ("90", "80", "100")


def run(arguments: list[str], cache: Path, interpret: bool) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TRITON_")}
    environment["TRITON_CACHE_DIR"] = str(cache)
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    if interpret:
        environment["TRITON_INTERPRET"] = "1"
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=HERE,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def run_interpreted(cache: Path, marker: str) -> None:
    options = ["-q", "-p", "no:cacheprovider", "-m", marker]
    done = run(["-m", "pytest", *options, "interpreted/dual_squeeze.py"], cache, interpret=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


def test_interpreter(tmp_path: Path) -> None:
    run_interpreted(tmp_path, "not slow")


@pytest.mark.slow
def test_interpreter_full_grid(tmp_path: Path) -> None:
    run_interpreted(tmp_path, "slow")


def check_compiled(cache: Path, options: list[str]) -> None:
    done = run(["compile_triton.py", *options, *ARCHS], cache, interpret=False)
    assert done.returncode == 0, done.stderr[-8000:]
    cubins = [json.loads(line) for line in done.stdout.splitlines()]
    spilled = [c for c in cubins if c["stack"] or c["local"]]
    assert not spilled, "\n".join(str(c) for c in spilled)
    # sm_80 and its like have 163 KB of shared memory for a block, the smallest of the family 99.
    assert max(c["shared"] for c in cubins) <= 99 << 10
    kernels = (
        "channel_means",
        "chebyshev_rows",
        "combine_rows",
        "expand_gradient",
        "gram_matrix",
        "matrix_vector",
        "pair_matrix",
    )
    found = Counter((c["kernel"], str(c["arch"])) for c in cubins)
    assert sorted(found) == sorted((kernel, arch) for kernel in kernels for arch in ARCHS)


def test_compiles_for_devices(tmp_path: Path) -> None:
    check_compiled(tmp_path, [])


@pytest.mark.slow
def test_compiles_every_variant(tmp_path: Path) -> None:
    check_compiled(tmp_path, ["--all"])


@pytest.mark.skipif(backend.interpreted(), reason="TRITON_INTERPRET=1 is set")
def test_cpu_tensors_only_in_the_interpreter() -> None:
    with (
        ccdn_ops.use_backend("triton"),
        pytest.raises(RuntimeError, match=r"'triton', which cannot.*set TRITON_INTERPRET=1"),
    ):
        ccdn_ops.dual_squeeze(torch.randn(1, 2, 3))


def test_triton_is_imported_on_use_only() -> None:
    code = (
        "import sys, ccdn_ops, ccdn_ops.backends.triton.dual_squeeze\n"
        "assert 'triton' not in sys.modules, 'importing the backend imported triton'"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize(("channels", "positions"), [(65, 49), (129, 81), (65, 1000)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_on_the_device(channels: int, positions: int, dtype: torch.dtype) -> None:
    from harness import check_exact

    with ccdn_ops.use_backend("triton"):
        check_exact("dominant", channels, positions, dtype=dtype, device="cuda")
