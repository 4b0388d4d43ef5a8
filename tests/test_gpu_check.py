"""`make gpu-check`: everything but the device itself."""

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


def test_without_a_device_it_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a device")
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_check.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "torch sees no CUDA device. Nothing was tested" in done.stdout
    lines = [line for line in done.stdout.splitlines() if "not measured" in line]
    assert len(lines) == 11
    # excitation_gates is measured as a part of ctm; the probe is no operator.
    files = {path.stem for path in (ROOT / "csrc" / "cuda").glob("*.cu")}
    assert {line.split()[0] for line in lines} == files - {"excitation_gates", "probe"}
    for goal in (">= 20 x", ">= 5 x", ">= 85 %", "<= 1.5 x", "<= 20 us", ">= 3 x", ">= 10 x"):
        assert any(goal in line for line in lines), goal


class Runner:
    """Stands in for the commands of a run: the last of `results` whose words are all in one."""

    def __init__(self, **results: tuple[int, str]) -> None:
        self.results = results
        self.commands: list[list[str]] = []

    def __call__(
        self, command: Sequence[str], seconds: float, silence: float | None = None, **variables: str
    ) -> tuple[int, str]:
        assert seconds > 1
        self.commands.append(list(command))
        for words, result in reversed(self.results.items()):
            if all(any(word in part for part in command) for word in words.split()):
                return result
        if any("gpu_targets.py" in part for part in command):
            return 0, "".join(map(row_line, shapes_of(command)))
        return 0, "35 passed in 1.00s\n"


def shapes_of(command: Sequence[str]) -> list[tuple[str, str, list[int]]]:
    """(suite, backend, shape) of everything that a command of gpu_targets.py measures."""
    suites = importlib.import_module("gpu_targets").SUITES
    names = [part for part in command if part in suites]
    backend = command[command.index("--backend") + 1]
    if "--shapes" in command:
        shapes = json.loads(command[command.index("--shapes") + 1])
        return [(names[0], backend, shape) for shape in shapes]
    first = "--first" in command
    return [(n, backend, list(s)) for n in names for s in suites[n].shapes[: 1 if first else None]]


def row_line(measured: tuple[str, str, list[int]], **more: Any) -> str:
    """What gpu_targets.py prints of a shape."""
    suite, backend, shape = measured
    row = {"suite": suite, "operator": suite, "backend": backend, "shape": shape}
    times = {"ours": 2.0, "ours, graph": 1.0, "reference": 42.0, "reference, graph": 7.0}
    row |= more or {
        "ms": times | {"compiled": 12.0},
        "error": 2e-7,
        "clocks": ["345/3201 MHz", "1980/3201 MHz"],
        "kernels": [{"name": "gram", "launches": 2, "us": 3.25}],
        "peak MB": {"ours": 1.5, "reference": 90.0},
        "floor ms": 1.0,
    }
    return f"row {json.dumps(row)}\n"


@pytest.fixture
def gpu_check(load: Any, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """With a sanitizer, whatever is installed, and without faces to train on."""
    monkeypatch.delenv("CCDN_SHARED", raising=False)
    module: ModuleType = load("gpu_check")
    monkeypatch.setattr(module.shutil, "which", lambda name: f"/bin/{name}")
    return module


def run_of(gpu_check: ModuleType, runner: Runner, **options: Any) -> Any:
    record = gpu_check.Record("NVIDIA Test 9", {"date": "today", "sources": "abc"})
    plan = options.pop("plan", None) or gpu_check.gpu_plan.steps()
    return gpu_check.check(record, plan, run=runner, **options)


def only(gpu_check: ModuleType, name: str) -> list[Any]:
    return [step for step in gpu_check.gpu_plan.steps() if step.name == name]


def test_the_minutes_left_train_the_paper_s_network(gpu_check: ModuleType) -> None:
    plan = gpu_check.gpu_plan.steps(data="faces")
    assert plan[-1].kind == "training"
    assert [step for step in gpu_check.gpu_plan.steps() if step.kind == "training"] == []
    runner = Runner(**{"gpu_train.py": (0, "epoch 9/9\nwrote train.json and train.md\n")})
    record = run_of(gpu_check, runner, plan=plan)
    assert record.verdicts["training faces"] == "passed (wrote train.json and train.md)"
    assert runner.commands[-1][2:4] == ["--data", "faces"]
    assert float(runner.commands[-1][5]) == pytest.approx((540 - 20) / 60, abs=0.1)
    assert "--results" not in runner.commands[-1]
    kept = Runner()
    run_of(gpu_check, kept, plan=plan[-1:], out=Path("/out"))
    results = kept.commands[0].index("--results")
    assert kept.commands[0][results - 2 : results + 2] == [
        *("--out", "/out/train"),
        *("--results", "/out"),
    ]
    late = run_of(gpu_check, Runner(), plan=plan[-1:], minutes=2)
    assert late.verdicts["training faces"].startswith("not run: out of time")
    wrong = Runner(**{"gpu_train.py": (1, "gpu-train: no faces\n")})
    failed = run_of(gpu_check, wrong, plan=plan[-1:])
    assert failed.verdicts["training faces"] == "failed: gpu-train: no faces"


def test_only_training_needs_faces(
    gpu_check: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        gpu_check.main(["--only", "training", "--dry-run"])
    assert "--only training needs faces" in capsys.readouterr().err


def test_a_whole_run(gpu_check: ModuleType, tmp_path: Path) -> None:
    runner, seen = Runner(), []
    record = run_of(gpu_check, runner, written=lambda r: seen.append(len(r.verdicts)))
    assert not record.failed
    assert len(record.tests) == 20
    assert record.tested["ctm"] == ["cuda", "triton"]
    assert record.verdicts["sanitizers memcheck"] == record.verdicts["sanitizers racecheck"]
    assert record.verdicts["sanitizers memcheck"] == "clean"
    assert seen == sorted(seen)  # written as it grows
    assert seen[-1] == len(gpu_check.gpu_plan.steps())
    assert [c[2] for c in runner.commands if "--tool" in c] == ["memcheck", "racecheck"]
    text, data = record.write(tmp_path)
    assert set(tmp_path.iterdir()) == {text, data}  # no partial file
    assert text.name == "nvidia-test-9.md"
    written = text.read_text(encoding="utf-8")
    wanted = (
        "| dual_squeeze | x eager reference, geometric mean of the grid | >= 20 x | 21 x | met |"
    )
    assert wanted in written
    assert (
        "| cocs_loss | in a graph replay, (64, 4, 256) | <= 20 us | 1e+03 us | missed |" in written
    )
    assert "| 8x256x256 | cuda | 2.0000 | 1.0000 | 42.0000 | 7.0000 |" in written
    assert "- 8x256x256 (cuda): gram 2 x 3.2 us" in written
    assert "| tests cuda ctm | 0 | passed (35 passed in 1.00s) |" in written
    assert "tests on the device: 20 of 20 operators of a backend pass" in written
    found = json.loads(data.read_text(encoding="utf-8"))
    assert found["measured"]["dual_squeeze"] == ["cuda", "triton"]
    assert found["tested"]["ctm"] == ["cuda", "triton"]


def test_no_shape_is_measured_twice(gpu_check: ModuleType) -> None:
    """What the first look measured is left out of the grid, whichever suite it is of."""
    runner = Runner()
    run_of(gpu_check, runner)
    commands = [c for c in runner.commands if any("gpu_targets.py" in part for part in c)]
    shapes = [(s, b, tuple(shape)) for c in commands for s, b, shape in shapes_of(c)]
    assert len(shapes) == len(set(shapes)) > 100


def test_quick_and_revealing_steps_come_first(gpu_check: ModuleType) -> None:
    """A first look at every kernel before anything long, measurements alone, all in one order."""
    plan = gpu_check.gpu_plan.steps()
    names = [step.name for step in plan]
    assert names[:3] == ["build", "tests cuda at a first look", "tests triton at a first look"]
    assert names.index("targets triton at a first look") < names.index("tests cuda dual_squeeze")
    assert names.index("targets cuda dual_squeeze") < names.index("tests triton dual_squeeze")
    assert len(names) == len(set(names))
    for batch in gpu_check.gpu_plan.batches(plan):
        assert len(batch) == 1 or {step.kind for step in batch} == {"tests"}


def test_the_plan_fits_a_lease_of_nine_minutes(gpu_check: ModuleType) -> None:
    """Every test and every eager figure; the compiled baseline, the sanitizers and Triton's own
    grid are the second run's."""
    plan = gpu_check.gpu_plan.steps()
    _, late = gpu_check.rehearse(plan, 9, jobs=8)
    needed = [s.name for s in plan if s.kind == "tests" or "targets cuda" in s.name]
    assert set(late) & set(needed) == {"targets cuda dual_squeeze_compiled"}
    record = run_of(gpu_check, Runner(), plan=[s for s in plan if s.name not in late])
    lines, late = gpu_check.rehearse(plan, 9, jobs=8, record=record)
    assert late == []
    assert len(lines) == 2 * 13


def test_a_rehearsal_runs_nothing(
    gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_check, "run", None)
    assert gpu_check.main(["--dry-run", "--minutes", "9", "--jobs", "8"]) == 0
    said = capsys.readouterr().out
    assert "gpu_train" not in said
    assert "48 steps; 13 are late for 9 minutes" in said
    assert "pytest tests/ops/test_gpu.py -m gpu -k cuda-ctm" in said
    assert said.index("setup.py build_ext --inplace") < said.index("gpu_targets.py dual_squeeze")


def test_the_rehearsal_lists_what_runs(gpu_check: ModuleType) -> None:
    """The commands of a run are those of its rehearsal, in that order."""
    plan = [step for step in gpu_check.gpu_plan.steps(backends=("cuda",)) if step.kind == "tests"]
    lines, _ = gpu_check.rehearse(plan, 99)
    runner = Runner()
    run_of(gpu_check, runner, plan=plan, jobs=1)
    ran = [gpu_check.shlex.join(command[2:]) for command in runner.commands]
    assert ran == [line.strip() for line in lines[1::2]]


@pytest.mark.parametrize(
    ("options", "kinds", "backends"),
    [
        (["--only", "tests", "--backend", "triton"], {"tests"}, {"triton"}),
        (["--only", "targets", "--backend", "cuda"], {"build", "targets"}, {"", "cuda"}),
        (["--only", "sanitizers"], {"build", "sanitizers"}, {""}),
    ],
)
def test_a_part_of_it(
    gpu_check: ModuleType, options: list[str], kinds: set[str], backends: set[str]
) -> None:
    values = {"--only": gpu_check.KINDS, "--backend": gpu_check.BACKENDS}
    values |= dict(zip(options[::2], ([v] for v in options[1::2]), strict=True))
    plan = gpu_check.gpu_plan.steps(values["--only"], values["--backend"])
    assert {step.kind for step in plan} == kinds
    assert {step.backend for step in plan} == backends


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
    record = run_of(gpu_check, Runner(**result))
    assert record.failed
    assert len(record.rows) == len(run_of(gpu_check, Runner()).rows)
    assert record.tested["ctm"] == (["cuda"] if "triton-ctm" in result else ["cuda", "triton"])
    assert sum(map(len, record.tested.values())) == 19 + ("triton-ctm" not in result)
    assert said in record.write(tmp_path)[0].read_text(encoding="utf-8")


@pytest.mark.parametrize("code", [10, -11, -9])
def test_a_shape_that_fails_costs_only_itself(
    gpu_check: ModuleType, tmp_path: Path, code: int
) -> None:
    """It breaks the device's context and says so (10), ends the process, or hangs."""
    [step] = only(gpu_check, "targets cuda isqrt_cov")
    calls: list[list[list[int]]] = []

    def run(command: Sequence[str], seconds: float, silence: float) -> tuple[int, str]:
        shapes = shapes_of(command)
        calls.append([shape for *_, shape in shapes])
        said = ""
        for measured in shapes:
            if measured[2] == [32, 64, 1024]:
                failed = row_line(measured, failed="RuntimeError: illegal address")
                return code, said + (failed if code == 10 else "Fatal Python error\n")
            said += row_line(measured)
        return 0, said

    record = run_of(gpu_check, run, plan=[step])  # type: ignore[arg-type]
    assert calls == [
        [[32, 256, 256], [32, 64, 1024], [128, 256, 256], [32, 512, 1024]],
        [[128, 256, 256], [32, 512, 1024]],
    ]
    assert record.verdicts == {"targets cuda isqrt_cov": "failed: 1 of 4 shapes"}
    text = record.write(tmp_path)[0].read_text(encoding="utf-8")
    assert "21 x (1 of 4 shapes are missing) | met" in text
    assert "illegal address" in text if code == 10 else "Fatal Python error" in text


def test_a_command_that_never_starts_is_not_tried_for_every_shape(gpu_check: ModuleType) -> None:
    [step] = only(gpu_check, "targets cuda dual_squeeze")
    runner = Runner(gpu_targets=(1, "ModuleNotFoundError: No module named 'torch'"))
    record = run_of(gpu_check, runner, plan=[step])
    assert len(runner.commands) == 2
    assert record.verdicts[step.name] == "failed: ModuleNotFoundError: No module named 'torch'"


def test_a_run_of_skips_is_no_success(gpu_check: ModuleType) -> None:
    runner = Runner(pytest=(0, "35 skipped in 1.00s"))
    record = run_of(gpu_check, runner, plan=gpu_check.gpu_plan.steps(["tests", "sanitizers"])[1:])
    assert record.failed
    assert record.tested == {}
    assert set(record.tests.values()) == {"not run: 35 skipped in 1.00s"}
    assert record.verdicts["sanitizers memcheck"] == "not run: no test ran under it"


def test_a_device_that_the_sanitizer_does_not_support(gpu_check: ModuleType) -> None:
    [step] = only(gpu_check, "sanitizers memcheck")
    runner = Runner(memcheck=(9, "========= Error: Device not supported\n"))
    assert gpu_check.sanitize(step, 9, runner).startswith("not run: compute-sanitizer does not")


def test_what_there_is_no_time_for_is_reported(gpu_check: ModuleType) -> None:
    runner = Runner()
    record = run_of(gpu_check, runner, minutes=0)
    assert runner.commands == []
    assert set(record.verdicts.values()) == {"not run: out of time"}


def test_a_missing_sanitizer_is_reported(
    gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_check.shutil, "which", lambda name: None)
    [step] = only(gpu_check, "sanitizers memcheck")
    assert gpu_check.sanitize(step, 9, Runner()).startswith("not run: compute-sanitizer")


def test_a_command_is_stopped_in_time(gpu_check: ModuleType) -> None:
    child = "import signal; print('here', flush=True); signal.pause()"
    assert gpu_check.run([sys.executable, "-c", child], 1.5) == (gpu_check.STOPPED, "here\n")
    silent = gpu_check.run([sys.executable, "-c", child], 60, silence=1.5)
    assert silent == (gpu_check.STOPPED, "here\n")
    script = "import os; print(os.environ['A']); raise SystemExit(7)"
    assert gpu_check.run([sys.executable, "-c", script], 60, A="2") == (7, "2\n")


# The build ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probes", "built", "said"),
    [
        ([(0, "architecture 90\n")], None, "passed (the module that is there"),
        ([(4, "architecture 90\nnone\n"), (0, "architecture 90\n")], 0, "passed"),
        ([(4, "architecture 90\nnone\n"), (4, "cannot be loaded\n")], 0, "failed: cannot be"),
        ([(4, "architecture 90\nnone\n")], 1, "failed: nvcc: no such file"),
    ],
)
def test_the_module_is_built_for_the_device_alone(
    gpu_check: ModuleType, probes: list[tuple[int, str]], built: int | None, said: str
) -> None:
    builds: list[dict[str, str]] = []

    def run(command: Sequence[str], seconds: float, **variables: str) -> tuple[int, str]:
        if "--probe" in command:
            return probes.pop(0)
        builds.append(variables)
        assert command[1:] == ["setup.py", "build_ext", "--inplace"]
        return (built or 0), "nvcc: no such file\n"

    [step] = only(gpu_check, "build")
    assert gpu_check.build(step, 60, run).startswith(said)
    assert builds == ([] if built is None else [{"CCDN_CUDA": "on", "CCDN_CUDA_ARCHS": "90"}])


def test_without_cuda_kernels_triton_is_tested_and_measured(gpu_check: ModuleType) -> None:
    runner = Runner(**{"--probe": (4, "built without CUDA kernels\n"), "build_ext": (1, "none\n")})
    record = run_of(gpu_check, runner)
    assert record.tested["ctm"] == ["triton"]
    assert {row["backend"] for row in record.rows} == {"triton"}
    assert record.tests["ctm", "cuda"] == "not run: there are no CUDA kernels"


# Several runs ------------------------------------------------------------------------------------


def test_a_second_run_does_the_rest(
    pretended: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run had time for the tests only; together they are one whole run."""
    first = Runner()
    monkeypatch.setattr(pretended, "run", first)
    assert pretended.main(["--only", "tests", "--out", str(tmp_path / "a")]) == 0
    second = Runner()
    monkeypatch.setattr(pretended, "run", second)
    options = ["--with", str(tmp_path / "a/t.json"), "--out", str(tmp_path / "b")]
    assert pretended.main(options) == 0
    assert not any("tests/ops/test_gpu.py" in c and "--tool" not in c for c in second.commands)
    found = pretended.gpu_record.read(tmp_path / "b/t.json")
    assert set(found.verdicts) == {step.name for step in pretended.gpu_plan.steps()}
    assert len(found.conditions["date"].split("; ")) == 2
    assert not list((tmp_path / "b").glob(".*"))


def test_records_are_put_together(gpu_check: ModuleType, tmp_path: Path) -> None:
    """Without a device: what one run lacks the other has, and a failure stays one."""
    tests_only = gpu_check.gpu_plan.steps(["tests"])
    run_of(gpu_check, Runner(), plan=tests_only).write(tmp_path / "a")
    broken = Runner(**{"racecheck": (9, "RACECHECK SUMMARY: 1 hazard")})
    later = run_of(gpu_check, broken, plan=gpu_check.gpu_plan.steps(["targets", "sanitizers"]))
    later.note("tests cuda ctm", "not run: out of time")
    later.write(tmp_path / "b")
    files = [str(tmp_path / run / "nvidia-test-9.json") for run in "ab"]
    code = gpu_check.main(["--with", *files, "--merge-only", "--out", str(tmp_path / "c")])
    assert code == 0
    found = gpu_check.gpu_record.read(tmp_path / "c/nvidia-test-9.json")
    assert found.verdicts["tests cuda ctm"] == "passed (35 passed in 1.00s)"
    assert found.verdicts["sanitizers racecheck"].startswith("failed")
    assert found.rows == later.rows


@pytest.mark.parametrize("change", ["device", "sources", "no record"])
def test_runs_of_different_things_are_not_put_together(
    gpu_check: ModuleType, tmp_path: Path, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    record = gpu_check.Record("NVIDIA Test 9", {"sources": "abc"})
    record.write(tmp_path / "a")
    if change == "device":
        record.device = "NVIDIA Test 10"
    else:
        record.conditions = {"sources": "def"}
    files = [tmp_path / "a" / "nvidia-test-9.json", record.write(tmp_path / "b")[1]]
    if change == "no record":
        files[1].write_text("[]", encoding="utf-8")
    options = ["--with", *map(str, files), "--merge-only", "--out", str(tmp_path / "c")]
    with pytest.raises(SystemExit) as end:
        gpu_check.main(options)
    assert end.value.code == 2
    said = "no record of gpu-check" if change == "no record" else "different things"
    assert said in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_a_measured_shape_outlives_a_later_failure(gpu_check: ModuleType) -> None:
    record = gpu_check.Record("T")
    shape = ("ctm", "cuda", [1, 2, 3])
    record.add(json.loads(row_line(shape).removeprefix("row ")))
    record.add(json.loads(row_line(shape, failed="RuntimeError").removeprefix("row ")))
    assert [("ms" in row) for row in record.rows] == [True]


# Selections and figures --------------------------------------------------------------------------


def test_its_tests_are_there(gpu_check: ModuleType) -> None:
    """Every name that a selection is made of is that of tests."""
    command = [sys.executable, "-m", "pytest", "tests/ops/test_gpu.py", "--collect-only", "-q"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    tests = [line for line in done.stdout.splitlines() if "::" in line]
    steps = [s for s in gpu_check.gpu_plan.steps(["tests"]) if s.kind == "tests"]
    counts = []
    for step in steps:
        if step.first:
            words = gpu_check.TELLING.split(" and ")
            chosen = [t for t in tests if all(w in t for w in (step.backend, *words))]
            assert len(chosen) == 10
            continue
        counts.append(
            sum(
                f"{step.backend}-{step.what}-" in t or t.endswith(f"{step.backend}-{step.what}]")
                for t in tests
            )
        )
    assert len(counts) == 20
    assert len(tests) == sum(counts)
    assert len(set(counts)) == 1
    runner = Runner()
    run_of(gpu_check, runner, plan=gpu_check.gpu_plan.steps(["sanitizers"])[1:])
    for selection in [c[c.index("-k") + 1] for c in runner.commands]:
        words = selection.replace("(", "").replace(")", "").replace(" or ", " and ").split(" and ")
        assert all(any(word in test for test in tests) for word in words)


@pytest.fixture
def pretended(gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A device to main()."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "T")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(gpu_check, "run", Runner())
    return gpu_check


def test_main_without_kernels(
    pretended: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = Runner(**{"--probe": (4, "architecture 90\nnone\n"), "build_ext": (1, "no nvcc\n")})
    monkeypatch.setattr(pretended, "run", missing)
    assert pretended.main(["--out", str(tmp_path)]) == 4
    assert json.loads((tmp_path / "t.json").read_text())["tested"]["ctm"] == ["triton"]


@pytest.mark.parametrize("reason", [None, "built without CUDA kernels"])
def test_the_probe(
    pretended: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    reason: str | None,
) -> None:
    from ccdn_ops.backends import native

    monkeypatch.setattr(native, "why_no_cuda_kernels", lambda device: reason)
    assert pretended.main(["--probe"]) == (0 if reason is None else 4)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "architecture 90"
    assert reason is None or said[1] == reason
