"""The command `make gpu-check`: its plan, its records and their merging, its exit codes."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from pretended_runs import TESTED, Runner, row_line, run_of

ROOT = Path(__file__).parents[2]


def test_without_a_device_it_says_so(load: Any) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a device")
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_check.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "torch sees no CUDA device. Nothing was tested" in done.stdout
    lines = [line for line in done.stdout.splitlines() if "not measured" in line]
    assert len(lines) == len(load("gpu_targets").TARGETS)
    # excitation_gates is measured as a part of ctm; the probe is no operator.
    files = {path.stem for path in (ROOT / "csrc" / "cuda").glob("*.cu")}
    assert {line.split()[0] for line in lines} == files - {"excitation_gates", "probe"}
    for goal in (">= 20 x", ">= 5 x", ">= 85 %", "<= 1.5 x", "<= 20 us", ">= 3 x", ">= 10 x"):
        assert any(goal in line for line in lines), goal


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
    assert len(record.tests) == TESTED
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
    assert f"tests on the device: {TESTED} of {TESTED} operators of a backend pass" in written
    found = json.loads(data.read_text(encoding="utf-8"))
    assert found["measured"]["dual_squeeze"] == ["cuda", "triton"]
    assert found["tested"]["ctm"] == ["cuda", "triton"]


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
    lines, never = gpu_check.rehearse(plan, 9, jobs=8, record=record)
    assert never == []
    assert len(lines) == 2 * len(late)


def test_a_rehearsal_runs_nothing(
    gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_check, "run", None)
    assert gpu_check.main(["--dry-run", "--minutes", "9", "--jobs", "8"]) == 0
    said = capsys.readouterr().out
    assert "gpu_train" not in said
    plan = gpu_check.gpu_plan.steps()
    _, late = gpu_check.rehearse(plan, 9, jobs=8)
    assert f"{len(plan)} steps; {len(late)} are late for 9 minutes" in said
    assert "pytest tests/ops/test_gpu.py -m gpu -k cuda-ctm" in said
    assert said.index("setup.py build_ext --inplace") < said.index("gpu_targets.py dual_squeeze")


def test_the_rehearsal_lists_what_runs(gpu_check: ModuleType) -> None:
    """The commands of a run are those of its rehearsal, in that order."""
    plan = [step for step in gpu_check.gpu_plan.steps(backends=("cuda",)) if step.kind == "tests"]
    lines, _ = gpu_check.rehearse(plan, 99)
    runner = Runner()
    run_of(gpu_check, runner, plan=plan, jobs=1)
    ran = [shlex.join(command[2:]) for command in runner.commands]
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
