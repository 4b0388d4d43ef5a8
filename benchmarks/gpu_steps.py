"""What the steps of `make gpu-check` run, and what their output says.

Each step is a process of its own. gpu_plan.py has their order, gpu_check.py the command.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path

import gpu_plan
import gpu_record
from gpu_plan import JOBS, Step
from gpu_record import OUT_OF_TIME, Record
from gpu_targets import SUITES, Shape

ROOT = Path(__file__).resolve().parents[1]
STOPPED = -int(signal.SIGKILL)
# The criterion for dual_squeeze, next to what tests/ops/test_gpu.py asks of every operator.
EXACT = {"cuda": "tests/ops/test_cuda_build.py", "triton": "tests/ops/test_triton.py"}
# A short test of each operator that reveals most faults: an odd map, both passes.
TELLING = "test_values and 3x2x65 and float32 and contiguous"
# A shape without output for this long has a kernel that hangs.
SILENCE = 90.0
# Seconds that a training needs: two starts, an epoch, an evaluation and its pictures.
LEAST_TRAINING = 180.0
Run = Callable[..., "tuple[int, str]"]


# Processes ---------------------------------------------------------------------------------------


def run(
    command: Sequence[str], seconds: float, silence: float | None = None, **variables: str
) -> tuple[int, str]:
    """Exit code and output of a command, which is shown while it runs.

    STOPPED after `seconds`, or after `silence` seconds without a line.
    """
    print("+", *(f"{k}={v}" for k, v in variables.items()), *command, flush=True)
    path = os.pathsep.join([str(ROOT), *sys.path])
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # so that its children end with it
    ) as process:
        assert process.stdout is not None
        end, heard = time.monotonic() + seconds, time.monotonic()
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.2):
                now = time.monotonic()
                if now > end or (silence is not None and now - heard > silence):
                    os.killpg(process.pid, signal.SIGKILL)
                    return

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        lines = []
        for line in process.stdout:
            heard = time.monotonic()
            print(line, end="", flush=True)
            lines.append(line)
        process.wait()
        over.set()
        watcher.join()
    return process.returncode, "".join(lines)


def stopped(seconds: float) -> str:
    return f"failed: stopped after {seconds:.0f} s"


def last_line(output: str, code: int) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1][:120] if lines else f"exit code {code}"


# Steps -------------------------------------------------------------------------------------------


def check(
    record: Record,
    plan: Sequence[Step],
    *,
    minutes: float = 25,
    jobs: int = JOBS,
    run: Run = run,
    written: Callable[[Record], object] = lambda record: None,
    out: Path | None = None,
) -> Record:
    """Runs the steps that the record lacks, and calls `written` after each. out: what a training
    leaves; None: gpu_train.py's own folder.

    After `minutes` nothing starts, and a running step is stopped.
    """
    end = time.monotonic() + 60 * minutes

    def taken(step: Step) -> tuple[str, float]:
        start = time.monotonic()
        seconds = min(step.limit, end - start)
        if seconds <= 1:
            return OUT_OF_TIME, 0.0
        missing = record.verdicts.get("build", "")
        if step.backend == "cuda" and missing.startswith(("failed", "not run")):
            return "not run: there are no CUDA kernels", 0.0
        kinds = {"build": build, "tests": tests, "sanitizers": sanitize}
        kinds["training"] = partial(train, out=out)
        take = kinds.get(step.kind, partial(targets, record=record, written=written))
        return take(step, seconds, run), time.monotonic() - start

    with ThreadPoolExecutor(jobs) as pool:
        for batch in gpu_plan.batches(plan):
            left = [step for step in batch if not record.done(step.name)]
            waiting = {pool.submit(taken, step): step for step in left}
            for done in as_completed(waiting):
                record.note(waiting[done].name, *done.result())
                written(record)
    return record


def build(step: Step, seconds: float, run: Run) -> str:
    """Builds the native module into the tree for this device, unless one there supports it."""
    probe = [sys.executable, str(ROOT / "benchmarks" / "gpu_check.py"), "--probe"]
    code, output = run(probe, 60.0)
    if code == 0:
        return "passed (the module that is there has kernels for this device)"
    arch = "".join(re.findall(r"^architecture (\w+)$", output, re.MULTILINE)[-1:])
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    variables = {"CCDN_CUDA": "on", **({"CCDN_CUDA_ARCHS": arch} if arch else {})}
    code, output = run(command, seconds, **variables)
    if code == STOPPED:
        return stopped(seconds)
    if code != 0:
        return f"failed: {last_line(output, code)}"
    code, output = run(probe, 60.0)
    return "passed" if code == 0 else f"failed: {last_line(output, code)}"


def test_command(step: Step) -> list[str]:
    files, selected = ["tests/ops/test_gpu.py"], f"{step.backend}-{step.what}"
    if step.first:
        selected = f"{step.backend} and {TELLING}"
    elif step.what == "dual_squeeze":
        files, selected = [*files, EXACT[step.backend]], f"{selected} or test_on_the_device"
    options = ["-m", "gpu", "-k", selected, "-q", "-ra", "-p", "no:cacheprovider"]
    return [sys.executable, "-m", "pytest", *files, *options]


def tests(step: Step, seconds: float, run: Run) -> str:
    """What the tests of an operator say: "passed ...", "failed: ..." or "not run: ..."."""
    code, output = run(test_command(step), seconds)
    last = [
        line for line in output.splitlines() if re.search(r"\d+ (passed|failed|skip|err)", line)
    ]
    said = last[-1].strip("= ") if last else last_line(output, code)
    if code == STOPPED:
        return stopped(seconds) if seconds >= step.limit else OUT_OF_TIME
    if code == 0 and re.search(r"\d+ passed", said):
        return f"passed ({said})"
    return f"not run: {said}" if code == 0 else f"failed: {said}"


def target_command(step: Step, names: Sequence[str], shapes: Sequence[Shape] | None) -> list[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_targets.py"), *names]
    command += ["--backend", step.backend]
    command += ["--first"] if step.first else []
    return command + (["--shapes", json.dumps(shapes)] if shapes is not None else [])


def targets(
    step: Step,
    seconds: float,
    run: Run,
    *,
    record: Record,
    written: Callable[[Record], object] = lambda record: None,
) -> str:
    """Measures the shapes of suites; a process that ends before its last shape is restarted.

    The shape at which it ended failed, and the others are still measured. Shapes that a first look
    has measured already are not measured again.
    """
    had = {gpu_record.key(row) for row in record.rows if "ms" in row}
    wanted = [
        (name, shape)
        for name in step.suites
        for shape in (SUITES[name].shapes[:1] if step.first else SUITES[name].shapes)
        if (name, step.backend, shape) not in had
    ]
    total, end = len(wanted), time.monotonic() + seconds
    measured = failures = 0
    while wanted and end - time.monotonic() > 1:
        names = list(dict.fromkeys(name for name, _ in wanted))
        shapes = None if len(names) > 1 else [shape for _, shape in wanted]
        code, output = run(
            target_command(step, names, shapes), end - time.monotonic(), silence=SILENCE
        )
        rows = [
            json.loads(line.removeprefix("row "))
            for line in output.splitlines()
            if line.startswith("row {")
        ]
        for row in rows:
            record.add(row)
            measured += "ms" in row
        seen = {(row["suite"], tuple(row["shape"])) for row in rows}
        wanted = [pair for pair in wanted if pair not in seen]
        out_of_time = end - time.monotonic() <= 1
        if wanted and not out_of_time and not (rows and "failed" in rows[-1]):
            # It ended without reporting its current shape.
            name, shape = wanted.pop(0)
            row = {"suite": name, "operator": SUITES[name].operator, "backend": step.backend}
            record.add({**row, "shape": list(shape), "failed": last_line(output, code)})
        written(record)
        failures = 0 if rows else failures + 1
        if failures == 2:
            return f"failed: {last_line(output, code)}"
    if wanted:
        return f"{OUT_OF_TIME}, {measured} of {total} shapes measured"
    failed = total - measured
    return f"failed: {failed} of {total} shapes" if failed else f"passed ({total} shapes)"


def sanitize(step: Step, seconds: float, run: Run) -> str:
    """What a tool of compute-sanitizer says: "clean", "failed: ..." or "not run: ..."."""
    found = shutil.which("compute-sanitizer") or shutil.which(
        "/usr/local/cuda/bin/compute-sanitizer"
    )
    if found is None:
        return "not run: compute-sanitizer is not installed"
    # Odd shapes and one of everything, in float32: the tool makes a kernel ten to a hundred times
    # slower. Caching would hide what lies outside of a tensor.
    selected = "test_values and torch.float32 and contiguous and (3x2x65 or 1x1x1)"
    command = [sys.executable, "-m", "pytest", "tests/ops/test_gpu.py", "-m", "gpu"]
    command += ["-q", "-p", "no:cacheprovider", "-k", selected]
    command = [found, "--tool", step.what, "--error-exitcode", "9", *command]
    code, output = run(command, seconds, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
    errors = re.findall(r"(?:ERROR SUMMARY: \d+ error|RACECHECK SUMMARY: \d+ hazard)s?", output)
    if "Device not supported" in output:
        return "not run: compute-sanitizer does not support this device here"
    if code == 0:
        return "clean" if re.search(r"\d+ passed", output) else "not run: no test ran under it"
    if code == STOPPED:
        said = "an error" if "========= ERROR" in output else "no error until then"
        return f"{'failed' if said == 'an error' else 'not run'}: out of time, {said}"
    return f"failed: exit code {code}, {', '.join(errors) or 'no summary'}"


def train_command(step: Step, seconds: float, out: Path | None) -> list[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_train.py"), "--data", step.what]
    command += ["--minutes", f"{seconds / 60:.1f}"]
    if out is not None:  # gpu_train.py may run in another folder
        out = out.absolute()
        command += ["--out", str(out / "train"), "--results", str(out)]
    return [*command, "data.box=gt"]


def train(step: Step, seconds: float, run: Run, *, out: Path | None = None) -> str:
    """What became of a training of the paper's network that ends in time."""
    if seconds < LEAST_TRAINING:
        return OUT_OF_TIME
    code, output = run(train_command(step, seconds - 20, out), seconds)
    if code == 0:
        return f"passed ({last_line(output, code)})"
    return f"failed: {last_line(output, code)}"
