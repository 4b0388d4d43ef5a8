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


class Runner:
    """Stands in for the commands of a run: the first of `results` whose words are all in one."""

    def __init__(self, **results: tuple[int, str]) -> None:
        self.results = {"--measure": (0, "  (8, 64): 21 x\nfigure 21.0\n"), **results}
        self.commands: list[list[str]] = []

    def __call__(self, command: Sequence[str], seconds: float) -> tuple[int, str]:
        assert seconds > 1
        self.commands.append(list(command))
        for words, result in reversed(self.results.items()):
            if all(any(word in part for part in command) for word in words.split()):
                return result
        return 0, "35 passed in 1.00s\n"


def run_of(gpu_check: ModuleType, runner: Runner, **options: Any) -> Any:
    return gpu_check.check(
        gpu_check.Findings("NVIDIA Test 9"), targets(gpu_check), run=runner, **options
    )


def targets(gpu_check: ModuleType) -> list[Any]:
    def never(device: str) -> float:
        raise AssertionError("a target has a process of its own")

    return [gpu_check.Target("dual_squeeze", "faster", "x", 20, True, never)]


@pytest.fixture
def gpu_check(load: Any, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """With a sanitizer, whatever is installed."""
    module: ModuleType = load("gpu_check")
    monkeypatch.setattr(module.shutil, "which", lambda name: f"/bin/{name}")
    return module


def test_a_whole_run(gpu_check: ModuleType, tmp_path: Path) -> None:
    runner, seen = Runner(), []
    findings = run_of(gpu_check, runner, written=lambda f: seen.append(len(f.verdicts)))
    assert not findings.failed
    assert len(findings.verdicts) == 18
    assert seen == [*range(1, 19), 18, 18, 18]  # after every step
    assert findings.tested["ctm"] == ["cuda", "triton"]
    assert findings.sanitizers == {"memcheck": "clean", "racecheck": "clean"}
    assert findings.measured == {0: 21.0}
    assert [c[3] for c in runner.commands if "--tool" in c] == ["--tool", "--tool"]
    text, data = gpu_check.write(findings, targets(gpu_check), tmp_path)
    assert text.name == "nvidia-test-9.md"
    written = text.read_text()
    assert "| dual_squeeze | faster | >= 20 x | 21 x | met |" in written
    assert "| ctm | cuda | passed (35 passed in 1.00s) |" in written
    assert "tests on the device: 18 of 18 operators of a backend pass" in written
    record = json.loads(data.read_text())
    assert record["measured"] == ["dual_squeeze"]
    assert record["tested"]["ctm"] == ["cuda", "triton"]


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ({"triton-ctm": (1, "FAILED a - 2 failed\n1 failed, 34 passed in 1.00s")}, "failed: 1 fa"),
        ({"triton-ctm": (-11, "loading\nFatal Python error: Segmentation fault\n")}, "Segmenta"),
        ({"triton-ctm": (-9, "...")}, "failed: stopped after 420 s"),
        ({"triton-ctm": (4, "ImportError: No module named 'hypothesis'")}, "No module named"),
        ({"racecheck": (9, "RACECHECK SUMMARY: 2 hazards")}, "exit code 9, RACECHECK SUMMARY: 2"),
        ({"memcheck": (-9, "========= ERROR\n")}, "failed: out of time, an error"),
    ],
)
def test_one_failure_costs_no_other_its_result(
    gpu_check: ModuleType, tmp_path: Path, result: Any, said: str
) -> None:
    findings = run_of(gpu_check, Runner(**result))
    assert findings.failed
    assert findings.measured == {0: 21.0}
    assert findings.tested["ctm"] == (["cuda"] if "triton-ctm" in result else ["cuda", "triton"])
    assert sum(map(len, findings.tested.values())) == 17 + ("triton-ctm" not in result)
    assert said in gpu_check.write(findings, targets(gpu_check), tmp_path)[0].read_text()


def test_a_run_of_skips_is_no_success(gpu_check: ModuleType) -> None:
    findings = run_of(gpu_check, Runner(pytest=(0, "35 skipped in 1.00s")))
    assert findings.failed
    assert findings.tested == {}
    assert set(findings.verdicts.values()) == {"not run: 35 skipped in 1.00s"}
    assert findings.sanitizers["memcheck"] == "not run: no test ran under it"


def test_a_figure_that_fails(gpu_check: ModuleType, tmp_path: Path) -> None:
    wrong = (1, "Traceback\nAssertionError: error 1e-2 > 1e-4: no speed is measured\n")
    findings = run_of(gpu_check, Runner(**{"--measure": wrong}))
    assert not findings.failed
    text, data = gpu_check.write(findings, targets(gpu_check), tmp_path)
    assert "failed: AssertionError: error 1e-2 > 1e-4: no speed" in text.read_text()
    assert json.loads(data.read_text())["measured"] == []


def test_what_there_is_no_time_for_is_said(gpu_check: ModuleType) -> None:
    runner = Runner()
    findings = run_of(gpu_check, runner, minutes=0)
    assert runner.commands == []
    found = [*findings.verdicts.values(), *findings.measured.values()]
    assert {*found, *findings.sanitizers.values()} == {"not run: out of time"}


def test_no_sanitizer_is_said(gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check.shutil, "which", lambda name: None)
    said = gpu_check.sanitize("memcheck", 9, Runner())
    assert said.startswith("not run: compute-sanitizer")


def test_a_command_is_stopped_in_time(gpu_check: ModuleType) -> None:
    child = "import signal; print('here', flush=True); signal.pause()"
    assert gpu_check.run([sys.executable, "-c", child], 1.5) == (gpu_check.STOPPED, "here\n")
    assert gpu_check.run([sys.executable, "-c", "print(2); raise SystemExit(7)"], 60) == (7, "2\n")


def test_its_tests_are_there(gpu_check: ModuleType) -> None:
    """Every name that a selection is made of is that of tests."""
    command = [sys.executable, "-m", "pytest", "tests/ops/test_gpu.py", "--collect-only", "-q"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    tests = [line for line in done.stdout.splitlines() if "::" in line]
    runner = Runner()
    run_of(gpu_check, runner)
    selections = [c[c.index("-k") + 1] for c in runner.commands if "-k" in c]
    counts = []
    for selection in selections[:18]:
        name = selection.partition(" or ")[0]
        counts.append(sum(name in test for test in tests))
    assert len(tests) == sum(counts)
    assert len(set(counts)) == 1
    for selection in selections[18:]:
        words = selection.replace("(", "").replace(")", "").replace(" or ", " and ").split(" and ")
        assert all(any(word in test for test in tests) for word in words)


@pytest.fixture
def pretended(gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A device to main()."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "T")
    monkeypatch.setattr(gpu_check, "run", Runner())
    return gpu_check


def test_a_target_alone(
    pretended: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figure = pretended.Target("ctm", "", "x", 1, False, lambda device: {"cuda": 1.25}[device])
    monkeypatch.setattr(pretended, "TARGETS", [figure])
    assert pretended.main(["--measure", "0"]) == 0
    assert capsys.readouterr().out == "figure 1.25\n"


@pytest.mark.parametrize("reason", [None, "built without CUDA kernels"])
def test_without_kernels_triton_is_tested(
    pretended: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    reason: str | None,
) -> None:
    monkeypatch.setattr(pretended.native, "why_no_cuda_kernels", lambda device: reason)
    code = pretended.main(["--out", str(tmp_path)])
    tested = json.loads((tmp_path / "t.json").read_text())["tested"]
    if reason is None:
        assert (code, tested["ctm"]) == (0, ["cuda", "triton"])
        return
    assert (code, tested["ctm"]) == (4, ["triton"])
    assert "built without CUDA kernels. Only Triton's" in capsys.readouterr().out


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
