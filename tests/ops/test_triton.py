"""The Triton kernels without a GPU: right in the interpreter, and compiled for the devices.

Each half needs a process of its own, because TRITON_INTERPRET is read when triton is imported.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from operator_rows import served_by

import ccdn_ops
from ccdn_ops.backends.triton import launcher

pytest.importorskip("triton", reason="triton is not installed")

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# The architectures in the order in which a short run prefers them.
ARCHS = ("90", "80", "100")
# The tests of the operators, which get this backend where they get every one.
TESTS = [
    "test_operators.py",
    *(f"test_{operator.name}.py" for operator in served_by("triton")),
    "interpreted/every_operator.py",
]
# What a kernel does wrong it does in these tests of the table or in those of this backend alone.
QUICK = (
    "every_operator.py or test_operators.py and "
    "(test_dtypes and not dtype3 or empty_batch or nan_stays and not inf)"
)


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


def run_interpreted(cache: Path, *selection: str) -> None:
    options = ["-q", "-p", "no:cacheprovider", *selection]
    done = run(["-m", "pytest", *options], cache, interpret=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


def test_interpreter(tmp_path: Path) -> None:
    run_interpreted(tmp_path, TESTS[0], TESTS[-1], "-m", "not slow", "-k", QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("file", TESTS)
def test_interpreter_full_grid(tmp_path: Path, file: str) -> None:
    run_interpreted(tmp_path, file)


def jitted() -> set[tuple[str, str]]:
    """Every kernel of the backend's sources; what other kernels call is no kernel."""
    found = set()
    for file in sorted(Path(ccdn_ops.__file__).parent.rglob("*_kernels.py")):
        operator = launcher.operator_of(f"{file.parent.name}.{file.stem}")
        for function in ast.parse(file.read_text()).body:
            if isinstance(function, ast.FunctionDef):
                starts = any(
                    isinstance(node, ast.Attribute) and node.attr == "program_id"
                    for node in ast.walk(function)
                )
                found.add((operator, function.name) if starts else (operator, ""))
    return {(operator, name) for operator, name in found if name}


def check_compiled(cache: Path, options: list[str]) -> None:
    done = run(["compile_triton.py", *options, *ARCHS], cache, interpret=False)
    assert done.returncode == 0, done.stderr[-8000:]
    cubins = [json.loads(line) for line in done.stdout.splitlines()]
    spilled = [c for c in cubins if c["stack"] or c["local"]]
    assert not spilled, "\n".join(str(c) for c in spilled)
    assert not [c for c in cubins if c["chained"]]
    # sm_80 and its like have 163 KB of shared memory for a block, the smallest of the family 99.
    assert max(c["shared"] for c in cubins) <= 99 << 10
    found = {(c["operator"], c["kernel"], str(c["arch"])) for c in cubins}
    wanted = {(*kernel, arch) for kernel in jitted() for arch in ARCHS}
    assert found == wanted


def test_compiles_for_devices(tmp_path: Path) -> None:
    check_compiled(tmp_path, [])


@pytest.mark.slow
def test_compiles_every_variant(tmp_path: Path) -> None:
    check_compiled(tmp_path, ["--all"])


@pytest.mark.skipif(launcher.interpreted(), reason="TRITON_INTERPRET=1 is set")
def test_cpu_tensors_only_in_the_interpreter() -> None:
    with (
        ccdn_ops.use_backend("triton"),
        pytest.raises(RuntimeError, match=r"'triton', which cannot.*set TRITON_INTERPRET=1"),
    ):
        ccdn_ops.dual_squeeze(torch.randn(1, 2, 3))


def test_triton_is_imported_on_use_only() -> None:
    code = (
        "import sys, ccdn_ops, ccdn_ops.ops.dual_squeeze.triton\n"
        "assert 'triton' not in sys.modules, 'importing the backend imported triton'"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_maps_of_every_shape_share_their_tables() -> None:
    """A later shape copies none to the device, and none that a graph reads is dropped."""
    from ccdn_ops.ops.dual_squeeze.triton import _tables
    from ccdn_ops.plans import dual_squeeze_plan

    cpu = torch.device("cpu")
    plans = [dual_squeeze_plan(d, 7, 5, "float32", "cuda") for d in range(1, 400)]
    assert len({id(tables) for tables in (_tables(plan, 5, cpu) for plan in plans)}) == 1


@pytest.mark.gpu
@pytest.mark.parametrize(("channels", "positions"), [(65, 49), (129, 81), (65, 1000)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_on_the_device(channels: int, positions: int, dtype: torch.dtype) -> None:
    from harness import check_exact

    with ccdn_ops.use_backend("triton"):
        check_exact("dominant", channels, positions, dtype=dtype, device="cuda")
