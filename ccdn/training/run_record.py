"""run.json: every start of a run, with what the result depends on beyond the configuration."""

from __future__ import annotations

import json
import math
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ccdn.config import Config
from ccdn.runtime.files import write_json

FILE = "run.json"


def record_start(folder: Path, config: Config, step: int, processes: int) -> None:
    """Add a start, after `step` optimiser steps, to the run's folder."""
    import torch

    from ccdn.checkpoint.state import library_versions
    from ccdn.runtime.processes import run_id

    start = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "step": step,
        "versions": library_versions(),
        "commit": git_commit(),
        "seed": config.train.seed,
        "box": config.data.box,
        "margin": config.data.margin,
        "threads": config.train.threads or torch.get_num_threads(),
        "processes": processes,
        "torchrun": run_id(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }
    if config.data.kind == "synthetic":
        start["generator_seed"] = config.data.synthetic.seed
    write_json(folder / FILE, {"starts": [*read_starts(folder), start]})


def read_starts(folder: Path) -> list[dict[str, Any]]:
    """The starts of the run in a folder; empty if there is no run or its file is damaged."""
    try:
        starts = json.loads((folder / FILE).read_text("utf-8"))["starts"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    return starts if isinstance(starts, list) else []


def seconds_since(start: dict[str, Any]) -> float:
    """Seconds since a start in run.json; infinity if its date cannot be read."""
    try:
        date = datetime.fromisoformat(start["date"])
        return (datetime.now(timezone.utc) - date).total_seconds()
    except (KeyError, TypeError, ValueError):
        return math.inf


def git_commit() -> str | None:
    """The commit of the project's sources, with "+" if they are modified; None outside git."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        found = subprocess.run(command, capture_output=True, check=True).stdout
        return found.decode(errors="replace").strip()

    try:
        if not git("ls-files", __file__):
            return None  # installed into some other project's tree
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "..")
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
