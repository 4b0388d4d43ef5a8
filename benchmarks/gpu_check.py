"""`make gpu-check`: everything that wants a CUDA device, in one command.

    python benchmarks/gpu_check.py [--out benchmarks/results]

Tests every operator of the cuda and triton backends on the device (pytest -m gpu) against the
float64 reference, on a stream of its own and in a captured CUDA graph; runs compute-sanitizer's
memcheck and racecheck over them where it is installed; measures the targets of gpu_targets.py; and
writes <device>.md, for readers, and <device>.json, for the README's table, into the folder.

Exit codes: 0 all is well (a missed target is written down, not an error), 1 a test or the
sanitizer failed, 3 torch sees no CUDA device, 4 the native module has no kernels for it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import tables
import torch
from gpu_targets import TARGETS, Target

import ccdn_ops
from ccdn_ops.backends import native

ROOT = Path(__file__).resolve().parents[1]
FAILED, NO_DEVICE, NO_KERNELS = 1, 3, 4
NOT_MEASURED = "not measured"
TESTS = ("tests/ops", "-m", "gpu")
Run = Callable[[Sequence[str]], "tuple[int, str]"]


@dataclass
class Findings:
    """What one run found out."""

    device: str
    tests: str = "not run"
    passed: bool = False
    tested: dict[str, list[str]] = field(default_factory=dict)  # operator -> backends
    sanitizers: dict[str, str] = field(default_factory=dict)
    measured: dict[int, float | str] = field(default_factory=dict)  # index of the target

    @property
    def failed(self) -> bool:
        return not self.passed or any(s.startswith("failed") for s in self.sanitizers.values())


def run(command: Sequence[str]) -> tuple[int, str]:
    """Exit code and output of a command, which is shown while it runs."""
    print("+", " ".join(command), flush=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    return process.returncode, "".join(lines)


def check(device: str, targets: Sequence[Target], run: Run = run, kind: str = "cuda") -> Findings:
    """Tests, sanitizers and measurements; `kind` is the type of the tensors that are timed."""
    findings = Findings(device)
    code, output = run([sys.executable, "-m", "pytest", *TESTS, "-v", "-rs"])
    # A run in which everything was skipped is no success: it says nothing.
    findings.tested = passed_on_device(output)
    findings.passed = code == 0 and bool(findings.tested)
    summary = [line for line in output.splitlines() if re.search(r"\d+ (passed|failed|skip)", line)]
    findings.tests = summary[-1].strip("= ") if summary else f"exit code {code}"
    for tool in ("memcheck", "racecheck"):
        findings.sanitizers[tool] = sanitize(tool, run)
    if findings.failed:
        return findings
    for index, target in enumerate(targets):
        print(f"measuring {target.operator}: {target.what}", flush=True)
        try:
            findings.measured[index] = target.measure(kind)
        except Exception as error:  # the others still can be measured
            findings.measured[index] = f"failed: {str(error).strip().splitlines()[0][:120]}"
    return findings


def passed_on_device(output: str) -> dict[str, list[str]]:
    """operator -> backends, from what `pytest -v` says of tests/ops/test_gpu.py."""
    found: dict[str, set[str]] = {}
    failed: set[tuple[str, str]] = set()
    pattern = r"test_gpu\.py::\w+\[(cuda|triton)-(\w+?)(?:-[^\]]*)?\] (PASSED|FAILED|ERROR)"
    for backend, operator, verdict in re.findall(pattern, output):
        found.setdefault(operator, set()).add(backend)
        if verdict != "PASSED":
            failed.add((operator, backend))
    kept = {
        operator: sorted(b for b in backends if (operator, b) not in failed)
        for operator, backends in found.items()
    }
    return {operator: backends for operator, backends in sorted(kept.items()) if backends}


def sanitize(tool: str, run: Run) -> str:
    """What a tool of compute-sanitizer says: "clean", "failed: ..." or "not run: ..."."""
    found = shutil.which("compute-sanitizer") or shutil.which(
        "/usr/local/cuda/bin/compute-sanitizer"
    )
    if found is None:
        return "not run: compute-sanitizer is not installed"
    # Values of every operator on small shapes; caching would hide what lies outside of a tensor.
    tests = [sys.executable, "-m", "pytest", *TESTS, "-q", "-k", "test_values"]
    command = [found, "--tool", tool, "--error-exitcode", "9", *tests]
    code, output = run(["env", "PYTORCH_NO_CUDA_MEMORY_CACHING=1", *command])
    errors = re.findall(r"ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard", output)
    if code == 0:
        return "clean"
    return f"failed: exit code {code}, {errors or 'no summary'}"


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
    lines += ["", "## Operators that pass their tests on this device", ""]
    operators = [["operator", "backends"]]
    operators += [[name, ", ".join(backends)] for name, backends in findings.tested.items()]
    return "\n".join([*lines, *tables.markdown(operators)]) + "\n"


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


def without(reason: str, targets: Sequence[Target]) -> None:
    print(f"gpu-check: {reason}. Nothing was tested on a device and nothing was measured.\n")
    for line in tables.aligned(target_lines(targets, {})):
        print(line)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        without("torch sees no CUDA device", TARGETS)
        return NO_DEVICE
    reason = native.why_no_cuda_kernels(torch.device("cuda", torch.cuda.current_device()))
    if reason is not None:
        without(reason, TARGETS)
        return NO_KERNELS
    findings = check(torch.cuda.get_device_name(), TARGETS)
    for path in write(findings, TARGETS, options.out):
        print(f"wrote {path}")
    for line in tables.aligned(target_lines(TARGETS, findings.measured)):
        print(line)
    return FAILED if findings.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
