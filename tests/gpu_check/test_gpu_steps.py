"""The steps of `make gpu-check`: what they run, and what a failure costs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pretended_runs import TESTED, Runner, only, row_line, run_of, shapes_of

from ccdn_ops.report import OPERATORS

ROOT = Path(__file__).parents[2]


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


def test_no_shape_is_measured_twice(gpu_check: ModuleType) -> None:
    """What the first look measured is left out of the grid, whichever suite it is of."""
    runner = Runner()
    run_of(gpu_check, runner)
    commands = [c for c in runner.commands if any("gpu_targets.py" in part for part in c)]
    shapes = [(s, b, tuple(shape)) for c in commands for s, b, shape in shapes_of(c)]
    assert len(shapes) == len(set(shapes)) > 100


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
    assert sum(map(len, record.tested.values())) == TESTED - ("triton-ctm" in result)
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


def test_a_device_that_the_sanitizer_does_not_support(
    gpu_check: ModuleType, gpu_steps: ModuleType
) -> None:
    [step] = only(gpu_check, "sanitizers memcheck")
    runner = Runner(memcheck=(9, "========= Error: Device not supported\n"))
    assert gpu_steps.sanitize(step, 9, runner).startswith("not run: compute-sanitizer does not")


def test_what_there_is_no_time_for_is_reported(gpu_check: ModuleType) -> None:
    runner = Runner()
    record = run_of(gpu_check, runner, minutes=0)
    assert runner.commands == []
    assert set(record.verdicts.values()) == {"not run: out of time"}


def test_a_missing_sanitizer_is_reported(
    gpu_check: ModuleType, gpu_steps: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    [step] = only(gpu_check, "sanitizers memcheck")
    assert gpu_steps.sanitize(step, 9, Runner()).startswith("not run: compute-sanitizer")


def test_a_command_is_stopped_in_time(gpu_steps: ModuleType) -> None:
    child = "import signal; print('here', flush=True); signal.pause()"
    assert gpu_steps.run([sys.executable, "-c", child], 1.5) == (gpu_steps.STOPPED, "here\n")
    silent = gpu_steps.run([sys.executable, "-c", child], 60, silence=1.5)
    assert silent == (gpu_steps.STOPPED, "here\n")
    script = "import os; print(os.environ['A']); raise SystemExit(7)"
    assert gpu_steps.run([sys.executable, "-c", script], 60, A="2") == (7, "2\n")


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
    gpu_check: ModuleType,
    gpu_steps: ModuleType,
    probes: list[tuple[int, str]],
    built: int | None,
    said: str,
) -> None:
    builds: list[dict[str, str]] = []

    def run(command: Sequence[str], seconds: float, **variables: str) -> tuple[int, str]:
        if "--probe" in command:
            return probes.pop(0)
        builds.append(variables)
        assert command[1:] == ["setup.py", "build_ext", "--inplace"]
        return (built or 0), "nvcc: no such file\n"

    [step] = only(gpu_check, "build")
    assert gpu_steps.build(step, 60, run).startswith(said)
    assert builds == ([] if built is None else [{"CCDN_CUDA": "on", "CCDN_CUDA_ARCHS": "90"}])


def test_without_cuda_kernels_triton_is_tested_and_measured(gpu_check: ModuleType) -> None:
    runner = Runner(**{"--probe": (4, "built without CUDA kernels\n"), "build_ext": (1, "none\n")})
    record = run_of(gpu_check, runner)
    assert record.tested["ctm"] == ["triton"]
    assert {row["backend"] for row in record.rows} == {"triton"}
    assert record.tests["ctm", "cuda"] == "not run: there are no CUDA kernels"


def test_its_tests_are_there(gpu_check: ModuleType, gpu_steps: ModuleType) -> None:
    """Every name that a selection is made of is that of tests."""
    command = [sys.executable, "-m", "pytest", "tests/ops/test_gpu.py", "--collect-only", "-q"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    tests = [line for line in done.stdout.splitlines() if "::" in line]
    steps = [s for s in gpu_check.gpu_plan.steps(["tests"]) if s.kind == "tests"]
    counts = []
    for step in steps:
        if step.first:
            words = gpu_steps.TELLING.split(" and ")
            chosen = [t for t in tests if all(w in t for w in (step.backend, *words))]
            assert len(chosen) == len(OPERATORS)
            continue
        counts.append(
            sum(
                f"{step.backend}-{step.what}-" in t or t.endswith(f"{step.backend}-{step.what}]")
                for t in tests
            )
        )
    assert len(counts) == TESTED
    assert len(tests) == sum(counts)
    assert len(set(counts)) == 1
    runner = Runner()
    run_of(gpu_check, runner, plan=gpu_check.gpu_plan.steps(["sanitizers"])[1:])
    for selection in [c[c.index("-k") + 1] for c in runner.commands]:
        words = selection.replace("(", "").replace(")", "").replace(" or ", " and ").split(" and ")
        assert all(any(word in test for test in tests) for word in words)
