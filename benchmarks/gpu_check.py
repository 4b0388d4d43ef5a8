"""`make gpu-check`: tests and measures the CUDA and Triton kernels on a device, in one command.

It needs a checkout, a CUDA device and a Python that has torch, triton, numpy, pytest, hypothesis
and, to build the CUDA kernels, pybind11, ninja, setuptools and nvcc. It needs no network and no
installation: the native module is built into the tree for the device's architecture alone.

    python benchmarks/gpu_check.py --minutes 9 --out runs/gpu
    python benchmarks/gpu_check.py --only tests --backend triton
    python benchmarks/gpu_check.py --with runs/gpu/nvidia-h200.json --out runs/gpu2   # the rest
    python benchmarks/gpu_check.py --with a.json b.json --merge-only --out benchmarks/results
    python benchmarks/gpu_check.py --only training --minutes 9 --data ~/300w
    python benchmarks/gpu_check.py --dry-run --minutes 9         # what would run; no device needed

Tests compare every operator of both backends with the float64 reference, on a stream of the
caller's and in a captured CUDA graph. Targets are the figures of gpu_targets.py. Sanitizers are
compute-sanitizer's memcheck and racecheck. Training trains the paper's network on 300W in the
minutes that are left, if there are faces: --data, or $CCDN_SHARED/300w. Each step is a process of
its own, so that one that breaks the device's context costs no other its result. <device>.md, for
readers, and <device>.json, for the table of backends and for --with, are written again after every
step.

Exit codes: 0 all is well (a missed target is written down, not an error), 1 a test or the
sanitizer failed, 2 wrong arguments, 3 torch sees no CUDA device, 4 the native module has no kernels
for it: Triton's alone were tested and measured.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

if __name__ == "__main__":  # from a bare checkout, where nothing is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import gpu_plan
import gpu_record
import tables
import torch
from gpu_plan import BACKENDS, JOBS, KINDS, Step
from gpu_record import Record
from gpu_steps import check, run, target_command, test_command, train_command
from gpu_targets import TARGETS

import ccdn_ops

ROOT = Path(__file__).resolve().parents[1]
FAILED, NO_DEVICE, NO_KERNELS = 1, 3, 4


def conditions() -> dict[str, str]:
    """The conditions that the numbers depend on."""
    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = "none"
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": tables.commit(),
        "sources": gpu_record.sources(),
        "versions": f"ccdn {ccdn_ops.__version__}, torch {torch.__version__} (CUDA "
        f"{torch.version.cuda}), triton {triton}, Python {platform.python_version()}",
    }


def faces() -> str:
    """300W's folder of CCDN_SHARED; empty if there is none."""
    folder = Path(os.environ.get("CCDN_SHARED", "")) / "300w"
    return str(folder) if "CCDN_SHARED" in os.environ and folder.is_dir() else ""


def probe() -> int:
    """In a process of its own: whether the native module in the tree serves the device."""
    from ccdn_ops.backends import native

    device = torch.device("cuda", torch.cuda.current_device())
    major, minor = torch.cuda.get_device_capability(device)
    print(f"architecture {major}{minor}")
    reason = native.why_no_cuda_kernels(device)
    print(reason or "the native module has CUDA kernels for this device")
    return 0 if reason is None else NO_KERNELS


def rehearse(
    plan: Sequence[Step], minutes: float, jobs: int = JOBS, record: Record | None = None
) -> tuple[list[str], list[str]]:
    """The plan in lines: when each step would begin, how long it should take, and what it runs.

    Also returns the names of the steps that would not finish in time.
    """
    lines, left_over, clock = [], [], 0.0
    for batch in gpu_plan.batches(plan):
        left = [step for step in batch if record is None or not record.done(step.name)]
        if not left:
            continue
        took = gpu_plan.predicted(left, jobs)
        fits = clock + took <= 60 * minutes
        begins = f"{clock // 60:3.0f}:{clock % 60:02.0f}" if fits else "  late"
        for step in left:
            lines.append(
                f"{begins}  {step.predicted:4.0f} s, at most {step.limit:.0f}  {step.name}"
            )
            lines.append(f"            {shown(step)}")
            left_over += [] if fits else [step.name]
        clock += took
    return lines, left_over


def shown(step: Step) -> str:
    """What a step runs, in the words of a shell."""
    if step.kind == "build":
        return "setup.py build_ext --inplace, unless the module there serves the device"
    if step.kind == "tests":
        return shlex.join(test_command(step)[2:])
    if step.kind == "training":
        return shlex.join(["gpu_train.py", *train_command(step, step.limit, None)[2:]])
    if step.kind == "sanitizers":
        return f"compute-sanitizer --tool {step.what} pytest tests/ops/test_gpu.py"
    return shlex.join(["gpu_targets.py", *target_command(step, step.suites, None)[2:]])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    results = ROOT / "benchmarks" / "results"
    parser.add_argument("--out", type=Path, default=results, help="folder of the two files")
    parser.add_argument("--minutes", type=float, default=25, help="nothing runs longer (25)")
    parser.add_argument("--jobs", type=int, default=JOBS, help=f"tests at a time ({JOBS})")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--backend", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--data", default=faces(), help="300W's folder ($CCDN_SHARED/300w)")
    parser.add_argument(
        "--with",
        nargs="+",
        type=Path,
        default=[],
        dest="earlier",
        metavar="FILE.json",
        help="records of earlier runs on this device: their steps are not repeated",
    )
    parser.add_argument(
        "--merge-only", action="store_true", help="put --with together; run nothing"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan; run nothing")
    parser.add_argument("--probe", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.probe:
        return probe()
    try:
        earlier = [gpu_record.read(path) for path in options.earlier]
        for other in earlier[1:]:
            earlier[0].merge(other)
    except ValueError as reason:
        parser.error(str(reason))
    if list(options.only) == ["training"] and not options.data:
        parser.error("--only training needs faces: --data DIR, or 300w in the folder CCDN_SHARED")
    plan = gpu_plan.steps(options.only, options.backend, options.data)
    if options.merge_only:
        if not earlier:
            parser.error("--merge-only needs --with FILE.json ...")
        report(earlier[0], options.out)
        return 0
    if options.dry_run:
        lines, late = rehearse(plan, options.minutes, options.jobs, earlier[0] if earlier else None)
        print("predicted for one large device with", options.jobs, "processes at a time:")
        print("\n".join(lines))
        print(f"{len(lines) // 2} steps; {len(late)} are late for {options.minutes:g} minutes")
        return 0
    if not torch.cuda.is_available():
        print(
            "gpu-check: torch sees no CUDA device. Nothing was tested on a device and nothing was "
            "measured.\n"
        )
        print("\n".join(tables.aligned(gpu_record.target_lines(TARGETS, []))))
        return NO_DEVICE
    record = Record(torch.cuda.get_device_name(), conditions())
    if earlier:
        try:
            earlier[0].merge(record)
        except ValueError as reason:
            parser.error(str(reason))
        record = earlier[0]
    check(
        record,
        plan,
        minutes=options.minutes,
        jobs=options.jobs,
        run=run,
        written=lambda record: record.write(options.out),
        out=options.out,
    )
    report(record, options.out)
    if record.failed and not _only_kernels_are_missing(record):
        return FAILED
    return NO_KERNELS if _only_kernels_are_missing(record) else 0


def _only_kernels_are_missing(record: Record) -> bool:
    """Whether nothing else failed than the build, and Triton's tests passed."""
    failed = [name for name, said in record.verdicts.items() if said.startswith("failed")]
    return failed == ["build"] and bool(record.tested)


def report(record: Record, folder: Path) -> None:
    for path in record.write(folder):
        print(f"wrote {path}")
    for name, verdict in record.verdicts.items():
        print(f"{name}: {verdict}")
    print("\n".join(tables.aligned(gpu_record.target_lines(TARGETS, record.rows))))


if __name__ == "__main__":
    raise SystemExit(main())
