"""The Triton kernels without a GPU: right in the interpreter, and compiled for the devices.

Each half needs a process of its own, because TRITON_INTERPRET is read when triton is imported.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

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
    "test_operator_derivatives.py",
    *(f"test_{operator.name}.py" for operator in served_by("triton")),
    "interpreted/every_operator.py",
]
# A faulty kernel fails these tests of the table, or those of this backend alone.
QUICK = {
    "test_operators.py": ("test_dtypes", "test_empty_batch", "test_nan_stays_in_its_sample"),
    "interpreted/every_operator.py": (),  # all
}


def run(arguments: list[str], cache: Path, interpret: bool) -> subprocess.CompletedProcess[str]:
    left = ("TRITON_", "PYTEST_")  # the started pytest is not a worker of this one
    environment = {k: v for k, v in os.environ.items() if not k.startswith(left)}
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


class Outcome(NamedTuple):
    """name: of a test with its parameters. failure: its report, or None."""

    name: str
    failure: str | None


def interpreted_outcomes(folder: Path, *selection: str) -> dict[str, list[Outcome]]:
    """What tests say in the interpreter, by the function's name. Skipped ones are left out."""
    report = folder / "report.xml"
    options = ["-q", "-p", "no:cacheprovider", f"--junitxml={report}", *selection]
    done = run(["-m", "pytest", *options], folder / "cache", interpret=True)
    assert done.returncode in (0, 1), done.stdout[-8000:] + done.stderr[-2000:]
    found: dict[str, list[Outcome]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = case.attrib["name"]
        bad = case.find("failure") if case.find("failure") is not None else case.find("error")
        if case.find("skipped") is None:
            failure = None if bad is None else bad.text or bad.attrib["message"]
            found.setdefault(name.partition("[")[0], []).append(Outcome(name, failure))
    return found


def check_outcomes(outcomes: Sequence[Outcome]) -> None:
    """Fail with the names of the tests that failed, and the report of the first."""
    assert outcomes, "no such test was run"
    bad = [outcome for outcome in outcomes if outcome.failure is not None]
    if bad:
        names = "\n".join(outcome.name for outcome in bad)
        pytest.fail(f"in Triton's interpreter:\n{names}\n\n{bad[0].failure}", pytrace=False)


def functions_of(file: str) -> list[str]:
    """Names of the test functions of a file."""
    tree = ast.parse((HERE / file).read_text("utf-8"))
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    return [name for name in functions if name.startswith("test_")]


QUICK_TESTS = [name for file, names in QUICK.items() for name in names or functions_of(file)]


@pytest.fixture(scope="module")
def quick_outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Outcome]]:
    named = " or ".join(name for names in QUICK.values() for name in names)
    wanted = f"every_operator.py or test_operators.py and ({named}) and not dtype3 and not inf"
    folder = tmp_path_factory.mktemp("interpreted")
    return interpreted_outcomes(folder, *QUICK, "-m", "not slow", "-k", wanted)


@pytest.mark.parametrize("name", QUICK_TESTS)
def test_interpreter(quick_outcomes: dict[str, list[Outcome]], name: str) -> None:
    """Each test runs on every operator; one process runs them all."""
    check_outcomes(quick_outcomes.get(name, []))


@pytest.mark.slow
@pytest.mark.parametrize("file", TESTS)
def test_interpreter_full_grid(tmp_path: Path, file: str) -> None:
    for outcomes in interpreted_outcomes(tmp_path, file).values():
        check_outcomes(outcomes)


def test_a_failure_has_its_name(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\n\n\n@pytest.mark.parametrize('n', [1, 2])\n"
        "def test_one(n):\n    assert n == 1\n\n\ndef test_two():\n    pass\n"
    )
    found = interpreted_outcomes(tmp_path, str(tmp_path / "test_it.py"), "--noconftest")
    check_outcomes(found["test_two"])
    expected = r"interpreter:\ntest_one\[2\]\n(?s:.*)assert n == 1"
    with pytest.raises(pytest.fail.Exception, match=expected):
        check_outcomes(found["test_one"])
    with pytest.raises(AssertionError, match="no such test"):
        check_outcomes([])


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


Cubins = dict[tuple[str, str], list[dict[str, Any]]]


def compiled(cache: Path, options: list[str]) -> Cubins:
    """The cubins of each kernel. A kernel that does not compile has an entry with its error."""
    done = run(["compile_triton.py", *options, *ARCHS], cache, interpret=False)
    assert done.returncode == 0, done.stderr[-8000:]
    found: Cubins = {}
    for line in done.stdout.splitlines():
        cubin = json.loads(line)
        found.setdefault((cubin["operator"], cubin["kernel"]), []).append(cubin)
    return found


def check_cubins(cubins: list[dict[str, Any]]) -> None:
    for cubin in cubins:
        where = {key: cubin[key] for key in ("arch", "types", "constants") if key in cubin}
        if "error" in cubin:
            pytest.fail(f"does not compile for {where}:\n{cubin['error']}", pytrace=False)
        assert not cubin["stack"], where
        assert not cubin["local"], where
        assert not cubin["chained"], where
        # sm_80 and its like have 163 KB of shared memory for a block, the smallest of the
        # family 99.
        assert cubin["shared"] <= 99 << 10, where
    assert {str(cubin["arch"]) for cubin in cubins} == set(ARCHS)


@pytest.fixture(scope="module")
def quick_cubins(tmp_path_factory: pytest.TempPathFactory) -> Cubins:
    return compiled(tmp_path_factory.mktemp("compiled"), [])


@pytest.mark.parametrize(("operator", "kernel"), sorted(jitted()))
def test_compiles_for_devices(quick_cubins: Cubins, operator: str, kernel: str) -> None:
    check_cubins(quick_cubins.get((operator, kernel), []))


def test_nothing_else_is_compiled(quick_cubins: Cubins) -> None:
    assert set(quick_cubins) == jitted()


@pytest.mark.slow
def test_compiles_every_variant(tmp_path: Path) -> None:
    found = compiled(tmp_path, ["--all"])
    assert set(found) == jitted()
    for cubins in found.values():
        check_cubins(cubins)


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
