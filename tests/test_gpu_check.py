"""`make gpu-check` and the README's table: everything but the device itself."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of benchmarks/ by its name."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


def test_without_a_device_it_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a device")
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_check.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "torch sees no CUDA device. Nothing was tested" in done.stdout
    lines = [line for line in done.stdout.splitlines() if "not measured" in line]
    assert len(lines) == 10
    # excitation_gates is measured as a part of ctm.
    measured = {path.stem for path in (ROOT / "csrc" / "cuda").glob("*.cu")} - {"excitation_gates"}
    assert {line.split()[0] for line in lines} == measured
    for goal in (">= 20 x", ">= 5 x", ">= 85 %", "<= 1.5 x", "<= 20 us", ">= 3 x", ">= 10 x"):
        assert any(goal in line for line in lines), goal


PYTEST = """
tests/ops/test_gpu.py::test_values[cuda-dual_squeeze-torch.float32-a] PASSED [ 1%]
tests/ops/test_gpu.py::test_values[triton-dual_squeeze-torch.float32-a] PASSED [ 2%]
tests/ops/test_gpu.py::test_values[triton-dual_squeeze-torch.float64-a] FAILED [ 3%]
tests/ops/test_gpu.py::test_captured_in_a_graph[cuda-multi_excite] PASSED [ 4%]
tests/ops/test_gpu.py::test_captured_in_a_graph[cuda-ctm] SKIPPED (cannot serve) [ 4%]
=========== 3 passed, 1 failed in 1.00s ===========
"""


class Runner:
    """Stands in for the commands of a run."""

    def __init__(self, **results: tuple[int, str]) -> None:
        self.results = results
        self.commands: list[list[str]] = []

    def __call__(self, command: Sequence[str]) -> tuple[int, str]:
        self.commands.append(list(command))
        for name, result in self.results.items():
            if name in command:
                return result
        return 0, PYTEST.replace("FAILED", "PASSED").replace(", 1 failed", "")


def target(gpu_check: ModuleType, measure: Any) -> Any:
    return gpu_check.Target("dual_squeeze", "faster", "x", 20, True, measure)


def test_a_whole_run(load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_check = load("gpu_check")
    monkeypatch.setattr(gpu_check.shutil, "which", lambda name: f"/bin/{name}")
    runner = Runner()

    def breaks(device: str) -> float:
        raise AssertionError("error 1e-2 > 1e-4: no speed is measured")

    targets = [target(gpu_check, lambda device: {"cuda": 21.0}[device]), target(gpu_check, breaks)]
    findings = gpu_check.check("NVIDIA Test 9", targets, runner)
    assert not findings.failed
    assert findings.tested == {"dual_squeeze": ["cuda", "triton"], "multi_excite": ["cuda"]}
    assert findings.sanitizers == {"memcheck": "clean", "racecheck": "clean"}
    assert [c[3] for c in runner.commands if "--tool" in c] == ["--tool", "--tool"]
    text, data = gpu_check.write(findings, targets, tmp_path)
    assert text.name == "nvidia-test-9.md"
    written = text.read_text()
    assert "| dual_squeeze | faster | >= 20 x | 21 x | met |" in written
    assert "failed: error 1e-2 > 1e-4: no speed is measured" in written
    assert "tests on the device: 3 passed in 1.00s" in written
    assert json.loads(data.read_text())["measured"] == ["dual_squeeze"]


@pytest.mark.parametrize(
    ("results", "said"),
    [
        ({"pytest": (1, PYTEST)}, "1 failed"),
        ({"racecheck": (9, "RACECHECK SUMMARY: 2 hazards")}, "failed: exit code 9"),
        ({"-v": (0, "=== 12 skipped in 1.00s ===")}, "12 skipped"),
    ],
)
def test_failures_are_failures(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, results: Any, said: str
) -> None:
    gpu_check = load("gpu_check")
    monkeypatch.setattr(gpu_check.shutil, "which", lambda name: f"/bin/{name}")

    def never(device: str) -> float:
        raise AssertionError("a kernel that fails its tests has no speed")

    findings = gpu_check.check("T", [target(gpu_check, never)], Runner(**results))
    assert findings.failed
    assert "triton" not in findings.tested.get("dual_squeeze", []) or "-v" not in results
    assert findings.measured == {}
    written = gpu_check.write(findings, [target(gpu_check, never)], tmp_path)[0].read_text()
    assert said in written
    assert "| not measured |" in written


def test_no_sanitizer_is_said(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_check = load("gpu_check")
    monkeypatch.setattr(gpu_check.shutil, "which", lambda name: None)
    assert gpu_check.sanitize("memcheck", Runner()).startswith("not run: compute-sanitizer")


def test_every_figure_can_be_measured(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU and small shapes: the figures mean nothing here, but they come out."""
    targets, timing = load("gpu_targets"), load("timing")
    interleaved = timing.interleaved
    monkeypatch.setattr(
        targets,
        "interleaved",
        lambda functions, **rest: interleaved(functions, **{**rest, "seconds": 0.0}),
    )
    monkeypatch.setattr(targets.roofline, "bandwidth", lambda moved, device: 1e9)
    small = [(2, 8, 6), (2, 6, 9)]
    found = [
        targets.dual_squeeze("cpu", "eager", small),
        targets.dual_squeeze("cpu", "graph", small),
        targets.multi_excite("cpu", (2, 4, 3, 3), 2),
        targets.ctm("cpu", (2, 4, 3, 3), 2),
        targets.cocs_loss("cpu", (3, 2, 5)),
        targets.isqrt_cov("cpu", small),
        targets.newton_schulz_sqrt("cpu", [(2, 6), (1, 9)]),
        targets.covariance_pool("cpu", (2, 6, 9), 16),
    ]
    assert all(value > 0 for value in found)


def test_a_wrong_result_has_no_speed(load: Any) -> None:
    targets = load("gpu_targets")
    x = torch.ones(3, requires_grad=True)
    with pytest.raises(AssertionError, match="no speed is measured"):
        targets.speedup(lambda x: x * 1.001, lambda x: x, [x], "eager", "cpu")


def test_the_clock_of_a_device(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cold caches and an event on either side of every call, seconds from milliseconds."""
    timing = load("timing")
    said: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            said.append("event")

        def elapsed_time(self, end: Event) -> float:
            return 2.0

    class Buffer:
        def zero_(self) -> None:
            said.append("flush")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: said.append("wait"))
    monkeypatch.setattr(timing, "_flush", [Buffer()])
    assert timing.CLOCKS["cuda"](lambda: said.append("call"), 2) == pytest.approx(2e-3)
    assert said == [*(["flush", "event", "call", "event"] * 2), "wait"]


def test_the_readme_has_the_table_of_now(load: Any) -> None:
    backend_table = load("backend_table")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert backend_table.table() in readme, "run python benchmarks/backend_table.py --write"


def test_the_table_believes_the_results(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend_table = load("backend_table")
    monkeypatch.setattr(backend_table, "RESULTS", tmp_path)
    assert backend_table.cell("dual_squeeze", "cuda") == "yes, emulated, not run on a GPU"
    assert backend_table.cell("dual_squeeze", "cpu") == "yes, tested"
    record = {"device": "H", "tested": {"dual_squeeze": ["cuda"]}, "measured": ["dual_squeeze"]}
    (tmp_path / "h.json").write_text(json.dumps(record))
    (tmp_path / "h.md").write_text("## multi_excite\n")
    (tmp_path / "cpu.md").write_text("## dual_squeeze\n")
    assert backend_table.cell("dual_squeeze", "cuda") == "yes, emulated, tested on H, measured"
    assert backend_table.cell("dual_squeeze", "triton") == "yes, interpreted, not run on a GPU"
    assert backend_table.cell("dual_squeeze", "cpu") == "yes, tested, measured"
    assert backend_table.cell("multi_excite", "cpu") == "yes, tested"
    assert "no figure" not in backend_table.table()
