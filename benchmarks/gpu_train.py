"""Trains the paper's network in the minutes that are left on a device, and evaluates it.

    python benchmarks/gpu_train.py --data ~/300w --minutes 9 --out runs/gpu-paper
    python benchmarks/gpu_train.py --data "$CCDN_SHARED/300w" --minutes 9 --results OUT data.box=gt

One epoch measures the speed. Then a run of as many epochs as fit into the minutes trains with the
whole schedule, its milestones moved in proportion. A run that turns out slower is stopped in
time with a checkpoint (`ccdn train --resume --out DIR/run` resumes it). --results gets train.json
and train.md: epochs, images a second, the error on the test faces, the device, and the command.

Exit codes: 0 trained and evaluated, 1 training or evaluation failed, 2 wrong arguments, 3 torch
sees no CUDA device (train.device=cpu trains without).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # from a bare checkout, where nothing is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tables
import torch
from gpu_check import NO_DEVICE
from gpu_measure import clocks
from gpu_steps import STOPPED, last_line, run

# Seconds kept for loading the faces again, the evaluation and its pictures.
RESERVE = 75.0


class TrainError(Exception):
    """A command that failed, in one line."""


def missing_packages() -> list[str]:
    """What `ccdn` imports and this Python lacks: a device's image may have torch alone."""
    import importlib.util

    needed = {"omegaconf": "omegaconf", "cv2": "opencv-python-headless", "yaml": "PyYAML"}
    needed |= {"tqdm": "tqdm", "safetensors": "safetensors", "pydantic": "pydantic"}
    needed |= {"scipy": "scipy", "h5py": "h5py", "matplotlib": "matplotlib", "jinja2": "jinja2"}
    return [package for name, package in needed.items() if importlib.util.find_spec(name) is None]


def last_record(metrics: Path, kind: str) -> dict[str, Any]:
    """The last line of a kind in a run's metrics.jsonl. TrainError without one."""
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
    found = [record for record in map(json.loads, lines) if record["kind"] == kind]
    if not found:
        raise TrainError(f"{metrics} has no line of kind {kind!r}")
    return found[-1]


def epochs_in(seconds: float, epoch_seconds: float) -> int:
    """As many whole epochs as fit; at least one. A tenth is kept for what varies."""
    return max(1, math.floor(0.9 * seconds / epoch_seconds))


def moved(milestones: Sequence[int], of: int, to: int) -> list[int]:
    """The epochs at which the rate falls, at the same shares of a run of another length."""
    return sorted({max(1, round(epoch * to / of)) for epoch in milestones})


def train(options: argparse.Namespace) -> dict[str, Any]:
    """The record of a run. Raises TrainError."""
    from ccdn.config import load_config

    end = time.monotonic() + 60 * options.minutes
    config = load_config(options.config, options.overrides)
    common = [sys.executable, "-m", "ccdn.train", "--config", options.config]
    common += ["--data", options.data, "--overwrite", *options.overrides]
    first = options.out / "first-epoch"
    code, output = run([*common, "--out", str(first), "train.epochs=1"], end - time.monotonic())
    if code != 0:
        raise TrainError(f"the first epoch: {last_line(output, code)}")
    seconds = last_record(first / "metrics.jsonl", "epoch")["seconds"]
    left = end - time.monotonic() - RESERVE
    epochs = min(config.train.epochs, epochs_in(left, seconds))
    schedule = [f"train.epochs={epochs}"]
    if config.train.schedule == "step":
        milestones = moved(config.train.milestones, config.train.epochs, epochs)
        schedule.append(f"train.milestones={milestones}".replace(" ", ""))
    folder = options.out / "run"
    command = [*common, "--out", str(folder), *schedule]
    before = clocks(options.device)
    # SIGTERM, not SIGKILL, ends it in time: the trainer saves a checkpoint first.
    limited = ["timeout", "--signal=TERM", f"{max(1.0, left):.0f}", *command]
    code, output = run(limited, left + RESERVE / 2)
    stopped = code in (124, 143)
    if code == STOPPED or (code != 0 and not stopped):
        raise TrainError(f"training: {last_line(output, code)}")
    after = clocks(options.device)
    evaluate = [sys.executable, "-m", "ccdn", "evaluate", "--weights", str(folder / "last.pt")]
    code, output = run([*evaluate, "--out", str(folder)], max(30.0, end - time.monotonic()))
    if code != 0:
        raise TrainError(f"evaluation: {last_line(output, code)}")
    step = last_record(folder / "metrics.jsonl", "step")
    return {
        "device": options.name,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": tables.commit(),
        "torch": torch.__version__,
        "command": command[1:],
        "epochs": last_record(folder / "metrics.jsonl", "epoch")["at"],
        "epochs planned": epochs,
        "stopped in time": stopped,
        "seconds of an epoch": seconds,
        "images a second": step["images_per_second"],
        "share of waiting for data": step["waiting"],
        "clocks": [before, after],
        "evaluation": json.loads((folder / "results.json").read_text(encoding="utf-8")),
    }


def page(record: dict[str, Any]) -> str:
    lines = [f"# Training on {record['device']}", ""]
    lines += [f"- {name}: {value}" for name, value in record.items() if name != "evaluation"]
    lines += ["", "```json", json.dumps(record["evaluation"], indent=1), "```", ""]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="a folder in 300W's layout, or synthetic")
    parser.add_argument("--config", default="paper", help="a preset or a file (paper)")
    parser.add_argument("--minutes", type=float, default=9, help="in all, evaluation included (9)")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu-train"), help="the run's folder")
    parser.add_argument("--results", type=Path, help="folder of train.json and train.md (--out)")
    parser.add_argument("overrides", nargs="*", help="section.field=value, e.g. data.box=gt")
    options = parser.parse_intermixed_args(arguments)
    if options.minutes <= 0:
        parser.error(f"--minutes is {options.minutes:g}; expected more than 0")
    on_cpu = "train.device=cpu" in options.overrides
    if not on_cpu and not torch.cuda.is_available():
        print("gpu-train: torch sees no CUDA device; train.device=cpu trains without one")
        return NO_DEVICE
    if missing := missing_packages():
        parser.error(f"this Python lacks {', '.join(missing)}; carry their wheels along")
    options.device = "cpu" if on_cpu else "cuda"
    options.name = tables.cpu_model() if on_cpu else torch.cuda.get_device_name()
    try:
        record = train(options)
    except TrainError as reason:
        print(f"gpu-train: {reason}", file=sys.stderr)
        return 1
    folder = options.results or options.out
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (folder / "train.md").write_text(page(record), encoding="utf-8")
    print(f"wrote {folder / 'train.json'} and {folder / 'train.md'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
