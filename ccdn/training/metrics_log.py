"""The record of a run: metrics.jsonl, one JSON object a line, and curves.png drawn from it."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from ccdn.runtime.files import atomic_write


class MetricsLog:
    """Appends records to metrics.jsonl; each has the key `step`, the optimiser steps done so far.

    after_step: on resume, the step of the checkpoint; records of later steps, which the run will
    write again, and a last line truncated by a crash are removed first. None starts a new file.
    """

    def __init__(self, path: Path, after_step: int | None = None) -> None:
        self.path = Path(path)
        kept = b""
        if after_step is not None and self.path.exists():
            records = [record for record in read_log(self.path) if record["step"] <= after_step]
            kept = b"".join(_line(record) for record in records)
        with atomic_write(self.path) as file:
            file.write(kept)
        self._file = self.path.open("ab", buffering=0)

    def write(self, record: dict[str, Any]) -> None:
        """Append one record; numbers that are not finite become null. Raises OSError, naming the
        file, when it cannot be written, e.g. on a full disk.
        """
        try:
            self._file.write(_line(record))
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def sync(self) -> None:
        """Flush all records to disk, before a checkpoint that relies on them."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl, up to the first incomplete line."""
    records = []
    for line in Path(path).read_bytes().splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            break
        records.append(record)
    return records


def draw_curves(log: Path, picture: Path) -> None:
    """Draw loss, its terms, NME and learning rate over the epochs from a metrics.jsonl."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    records = read_log(log)
    steps = [record for record in records if record.get("kind") == "step"]
    epochs = [record for record in records if record.get("kind") == "epoch"]
    figure = Figure(figsize=(10, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2)

    def plot(axis: Any, rows: list[dict[str, Any]], keys: dict[str, str], title: str) -> None:
        for key, label in keys.items():
            pairs = [(row["at"], row[key]) for row in rows if row.get(key) is not None]
            if pairs:
                # A curve of one point is a dot.
                marker = "o" if len(pairs) == 1 else None
                axis.plot(*zip(*pairs, strict=True), marker=marker, label=label, linewidth=1.2)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("epoch", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8)

    plot(axes[0, 0], steps, {"loss": "objective", "landmarks": "landmarks"}, "loss")
    plot(axes[0, 1], steps, {"cocs_t": "T", "cocs_t1": "T-1", "cocs_g": "G"}, "COCS")
    plot(axes[1, 0], epochs, {"nme": "training crops", "holdout_nme": "held out"}, "NME [%]")
    plot(axes[1, 1], steps, {"lr": "learning rate"}, "learning rate")
    for axis in axes.flat[:3]:
        values = [v for line in axis.get_lines() for v in line.get_ydata() if v > 0]
        if values and max(values) > 4 * min(values):
            axis.set_yscale("log")
    with atomic_write(picture) as file:
        figure.savefig(file, format="png", dpi=100)


def _line(record: dict[str, Any]) -> bytes:
    clean = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in record.items()
    }
    return (json.dumps(clean) + "\n").encode()
