"""`make gpu-check`: everything that wants a CUDA device, in one command.

    python benchmarks/gpu_check.py [--out benchmarks/results] [--minutes 25]

Tests every operator of the cuda and triton backends on the device (pytest -m gpu) against the
float64 reference, on a stream of its own and in a captured CUDA graph; measures the targets of
gpu_targets.py, each of which is judged against the reference once more; and runs
compute-sanitizer's memcheck and racecheck over the operators where it is installed. Every operator
of a backend and every target has a process of its own, so that one that breaks the device's context
costs no other its result. <device>.md, for readers, and <device>.json, for the README's table, are
written into the folder again after every step; what the minutes do not suffice for is said there.

Exit codes: 0 all is well (a missed target is written down, not an error), 1 a test or the
sanitizer failed, 3 torch sees no CUDA device, 4 the native module has no kernels for it: Triton's
alone were tested and measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import tables
import torch
from gpu_targets import TARGETS, Target

import ccdn_ops
from ccdn_ops.backends import native
from ccdn_ops.report import OPERATORS

ROOT = Path(__file__).resolve().parents[1]
FAILED, NO_DEVICE, NO_KERNELS = 1, 3, 4
NOT_MEASURED = "not measured"
OUT_OF_TIME = "not run: out of time"
STOPPED = -int(signal.SIGKILL)
BACKENDS = ("cuda", "triton")
# The criterion for dual_squeeze, beside what tests/ops/test_gpu.py asks of every operator.
EXACT = {"cuda": "tests/ops/test_cuda_build.py", "triton": "tests/ops/test_triton.py"}
# Processes at a time, only for tests: Triton compiles on the CPU.
JOBS = max(1, min(4, (os.cpu_count() or 1) // 2))
# The longest that a test, a target or a sanitizer may take, in seconds.
STEP = {"test": 420.0, "target": 240.0, "sanitizer": 240.0}
Run = Callable[[Sequence[str], float], "tuple[int, str]"]


@dataclass
class Findings:
    """What one run found out."""

    device: str
    verdicts: dict[tuple[str, str], str] = field(default_factory=dict)  # (operator, backend)
    sanitizers: dict[str, str] = field(default_factory=dict)
    measured: dict[int, float | str] = field(default_factory=dict)  # index of the target

    @property
    def tested(self) -> dict[str, list[str]]:
        """operator -> backends that pass."""
        found: dict[str, list[str]] = {}
        for (operator, backend), verdict in sorted(self.verdicts.items()):
            if verdict.startswith("passed"):
                found.setdefault(operator, []).append(backend)
        return found

    @property
    def tests(self) -> str:
        passed = sum(map(len, self.tested.values()))
        return f"{passed} of {len(self.verdicts)} operators of a backend pass"

    @property
    def failed(self) -> bool:
        """A run in which nothing passed is no success: it says nothing."""
        verdicts = [*self.verdicts.values(), *self.sanitizers.values()]
        return not self.tested or any(v.startswith("failed") for v in verdicts)


def run(command: Sequence[str], seconds: float) -> tuple[int, str]:
    """Exit code and output of a command, which is shown while it runs; STOPPED after `seconds`."""
    print("+", " ".join(command), flush=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # so that what it started ends with it
    ) as process:
        assert process.stdout is not None
        clock = threading.Timer(seconds, os.killpg, (process.pid, signal.SIGKILL))
        clock.start()
        lines = []
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
        process.wait()
        clock.cancel()
    return process.returncode, "".join(lines)


def check(
    findings: Findings,
    targets: Sequence[Target],
    *,
    minutes: float = 25,
    backends: Sequence[str] = BACKENDS,
    run: Run = run,
    written: Callable[[Findings], object] = lambda findings: None,
) -> Findings:
    """Tests, measurements and sanitizers, in this order; `written` after every step."""
    end = time.monotonic() + 60 * minutes

    def limited(kind: str, step: Callable[[float], str | float]) -> str | float:
        seconds = min(STEP[kind], end - time.monotonic())
        return step(seconds) if seconds > 1 else OUT_OF_TIME

    with ThreadPoolExecutor(JOBS) as pool:
        waiting = {
            pool.submit(limited, "test", lambda s, o=o, b=b: verdict(o, b, s, run)): (o, b)
            for b in backends
            for o in OPERATORS
        }
        for done in as_completed(waiting):
            findings.verdicts[waiting[done]] = str(done.result())
            written(findings)
    for index, target in enumerate(targets):
        print(f"measuring {target.operator}: {target.what}", flush=True)
        findings.measured[index] = limited("target", lambda s, i=index: measured(i, s, run))
        written(findings)
    for tool in ("memcheck", "racecheck"):
        findings.sanitizers[tool] = str(limited("sanitizer", lambda s, t=tool: sanitize(t, s, run)))
        written(findings)
    return findings


def verdict(operator: str, backend: str, seconds: float, run: Run) -> str:
    """What the tests of an operator say: "passed ...", "failed: ..." or "not run: ..."."""
    files, selected = ["tests/ops/test_gpu.py"], f"{backend}-{operator}"
    if operator == "dual_squeeze":
        files, selected = [*files, EXACT[backend]], f"{selected} or test_on_the_device"
    options = ["-m", "gpu", "-k", selected, "-q", "-ra", "-p", "no:cacheprovider"]
    code, output = run([sys.executable, "-m", "pytest", *files, *options], seconds)
    last = [
        line for line in output.splitlines() if re.search(r"\d+ (passed|failed|skip|err)", line)
    ]
    said = last[-1].strip("= ") if last else last_line(output, code)
    if code == STOPPED:
        return stopped(seconds)
    if code == 0 and re.search(r"\d+ passed", said):
        return f"passed ({said})"
    return f"not run: {said}" if code == 0 else f"failed: {said}"


def measured(index: int, seconds: float, run: Run) -> float | str:
    """The figure of a target, from a process of its own, or why there is none."""
    code, output = run([sys.executable, str(Path(__file__)), "--measure", str(index)], seconds)
    found = re.findall(r"^figure (\S+)$", output, re.MULTILINE)
    if code == 0 and found:
        return float(found[-1])
    if code == STOPPED:
        return stopped(seconds)
    return f"failed: {last_line(output, code)}"


def stopped(seconds: float) -> str:
    return f"failed: stopped after {seconds:.0f} s"


def last_line(output: str, code: int) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1][:120] if lines else f"exit code {code}"


def sanitize(tool: str, seconds: float, run: Run) -> str:
    """What a tool of compute-sanitizer says: "clean", "failed: ..." or "not run: ..."."""
    found = shutil.which("compute-sanitizer") or shutil.which(
        "/usr/local/cuda/bin/compute-sanitizer"
    )
    if found is None:
        return "not run: compute-sanitizer is not installed"
    # Odd shapes and one of everything, in float32: the tool makes a kernel ten to a hundred times
    # slower. Caching would hide what lies outside of a tensor.
    selected = "test_values and torch.float32 and contiguous and (3x2x65 or 1x1x1)"
    tests = [sys.executable, "-m", "pytest", "tests/ops/test_gpu.py", "-m", "gpu"]
    tests += ["-q", "-p", "no:cacheprovider", "-k", selected]
    command = [found, "--tool", tool, "--error-exitcode", "9", *tests]
    code, output = run(["env", "PYTORCH_NO_CUDA_MEMORY_CACHING=1", *command], seconds)
    errors = re.findall(r"(?:ERROR SUMMARY: \d+ error|RACECHECK SUMMARY: \d+ hazard)s?", output)
    if code == 0:
        return "clean" if re.search(r"\d+ passed", output) else "not run: no test ran under it"
    if code == STOPPED:
        said = "an error" if "========= ERROR" in output else "no error until then"
        return f"{'failed' if said == 'an error' else 'not run'}: out of time, {said}"
    return f"failed: exit code {code}, {', '.join(errors) or 'no summary'}"


def target_lines(targets: Sequence[Target], measured: dict[int, float | str]) -> list[list[str]]:
    """A table of goals and what was found: "not measured" where nothing was."""
    lines = [["operator", "figure", "goal", "measured", ""]]
    for index, target in enumerate(targets):
        found = measured.get(index, NOT_MEASURED)
        verdict = ""
        if not isinstance(found, str):
            verdict = "met" if target.met(found) else "missed"
            found = f"{found:.3g} {target.unit}"
        lines.append([target.operator, target.what, target.wanted, found, verdict])
    return lines


def conditions() -> dict[str, str]:
    """What the numbers depend on."""
    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = "none"
    module = native.module()
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": tables.commit(),
        "versions": f"ccdn {ccdn_ops.__version__}, torch {torch.__version__} (CUDA "
        f"{torch.version.cuda}), triton {triton}, Python {platform.python_version()}",
        "native module": "none"
        if module is None
        else f"CUDA kernels for {', '.join(module.cuda_archs) or 'nothing'}",
    }


def summary(findings: Findings, targets: Sequence[Target]) -> str:
    """The Markdown file of a device."""
    lines = [f"# GPU check: {findings.device}", ""]
    lines += [f"- {name}: {value}" for name, value in conditions().items()]
    lines += [f"- tests on the device: {findings.tests}"]
    lines += [f"- {tool}: {found}" for tool, found in findings.sanitizers.items()]
    lines += ["", "Made by `make gpu-check`.", "", "## Targets", ""]
    lines += tables.markdown(target_lines(targets, findings.measured))
    lines += ["", "## Tests", ""]
    verdicts = [["operator", "backend", "its tests on this device"]]
    verdicts += [[*key, found] for key, found in sorted(findings.verdicts.items())]
    return "\n".join([*lines, *tables.markdown(verdicts)]) + "\n"


def write(findings: Findings, targets: Sequence[Target], folder: Path) -> list[Path]:
    """<device>.md and <device>.json."""
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^a-z0-9]+", "-", findings.device.lower()).strip("-")
    numbers = {
        targets[index].operator
        for index, found in findings.measured.items()
        if not isinstance(found, str)
    }
    record = {
        "device": findings.device,
        **conditions(),
        "tested": findings.tested,
        "measured": sorted(numbers),
    }
    text, data = folder / f"{name}.md", folder / f"{name}.json"
    text.write_text(summary(findings, targets), encoding="utf-8")
    data.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return [text, data]


def without_a_device(targets: Sequence[Target]) -> None:
    print(
        "gpu-check: torch sees no CUDA device. Nothing was tested on a device and nothing was "
        "measured.\n"
    )
    for line in tables.aligned(target_lines(targets, {})):
        print(line)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--minutes", type=float, default=25, help="start nothing after so many")
    parser.add_argument("--measure", type=int, help="measure this target alone, on the device")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        without_a_device(TARGETS)
        return NO_DEVICE
    if options.measure is not None:
        print(f"figure {TARGETS[options.measure].measure('cuda')!r}")
        return 0
    reason = native.why_no_cuda_kernels(torch.device("cuda", torch.cuda.current_device()))
    if reason is not None:
        print(f"gpu-check: {reason}. Only Triton's kernels are tested and measured.\n", flush=True)
    findings = check(
        Findings(torch.cuda.get_device_name()),
        TARGETS,
        minutes=options.minutes,
        backends=BACKENDS if reason is None else ("triton",),
        run=run,
        written=lambda findings: write(findings, TARGETS, options.out),
    )
    for path in write(findings, TARGETS, options.out):
        print(f"wrote {path}")
    for line in [
        *tables.aligned([[*key, found] for key, found in sorted(findings.verdicts.items())]),
        *(f"{tool}: {found}" for tool, found in findings.sanitizers.items()),
        *tables.aligned(target_lines(TARGETS, findings.measured)),
    ]:
        print(line)
    if findings.failed:
        return FAILED
    return 0 if reason is None else NO_KERNELS


if __name__ == "__main__":
    raise SystemExit(main())
