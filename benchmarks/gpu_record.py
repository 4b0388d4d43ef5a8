"""What runs of `make gpu-check` found out on one device: merging them, files, and the page."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tables
from gpu_measure import Row
from gpu_targets import SUITES, TARGETS, Target

ROOT = Path(__file__).resolve().parents[1]
NOT_MEASURED = "not measured"
OUT_OF_TIME = "not run: out of time"


def sources() -> str:
    """A hash of what the figures depend on; a checkout without git has no commit to name."""
    found = hashlib.sha256()
    for folder in ("csrc", "ccdn_ops"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".cpp", ".h", ".cu", ".cuh"):
                found.update(path.relative_to(ROOT).as_posix().encode())
                found.update(path.read_bytes())
    return found.hexdigest()[:12]


@dataclass
class Record:
    """`verdicts` by the names of steps: "passed ...", "clean", "failed: ..." or "not run: ..."."""

    device: str
    conditions: dict[str, str] = field(default_factory=dict)
    verdicts: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)  # what a step took
    rows: list[Row] = field(default_factory=list)

    # Tests of an operator: ("ctm", "cuda") -> verdict.
    @property
    def tests(self) -> dict[tuple[str, str], str]:
        found = {}
        for name, verdict in self.verdicts.items():
            words = name.split()
            if words[0] == "tests" and len(words) == 3:
                found[words[2], words[1]] = verdict
        return found

    @property
    def tested(self) -> dict[str, list[str]]:
        """operator -> backends that pass."""
        found: dict[str, list[str]] = {}
        for (operator, backend), verdict in sorted(self.tests.items()):
            if verdict.startswith("passed"):
                found.setdefault(operator, []).append(backend)
        return found

    @property
    def measured(self) -> dict[str, list[str]]:
        """operator -> backends of which a shape has times."""
        found: dict[str, list[str]] = {}
        pairs = {(row["operator"], row["backend"]) for row in self.rows if "ms" in row}
        for operator, backend in sorted(pairs):
            found.setdefault(operator, []).append(backend)
        return found

    @property
    def failed(self) -> bool:
        """A run in which nothing passed is no success: it says nothing."""
        good = any(v.startswith(("passed", "clean")) for v in self.verdicts.values())
        return not good or any(v.startswith("failed") for v in self.verdicts.values())

    def done(self, name: str) -> bool:
        return not self.verdicts.get(name, "not run").startswith("not run")

    def note(self, name: str, verdict: str, seconds: float = 0.0) -> None:
        """What there was no time for takes nothing away from an earlier run."""
        if verdict.startswith("not run") and self.done(name):
            return
        self.verdicts[name], self.seconds[name] = verdict, round(seconds, 1)

    def add(self, row: Row) -> None:
        """One row for each suite, backend and shape: the last that has times."""
        mine = [r for r in self.rows if key(r) == key(row)]
        if mine and "ms" in mine[0] and "ms" not in row:
            return
        self.rows = [r for r in self.rows if key(r) != key(row)] + [row]

    def merge(self, other: Record) -> None:
        """Takes over a later run. ValueError for one of another device or of other sources."""
        mine, its = self._identity(), other._identity()
        if mine != its:
            raise ValueError(f"runs of different things are not merged: {mine} and {its}")
        for name, verdict in other.verdicts.items():
            self.note(name, verdict, other.seconds.get(name, 0.0))
        for row in other.rows:
            self.add(row)
        dates = [self.conditions.get("date", ""), other.conditions.get("date", "")]
        self.conditions = {**other.conditions, "date": "; ".join(filter(None, dates))}

    def _identity(self) -> tuple[str, ...]:
        return (self.device, *(self.conditions.get(k, "") for k in ("sources", "versions")))

    # Files -------------------------------------------------------------------

    def write(self, folder: Path) -> list[Path]:
        """<device>.md and <device>.json; a run that is stopped leaves the ones before, whole."""
        folder.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"[^a-z0-9]+", "-", self.device.lower()).strip("-")
        data = {
            "device": self.device,
            "tested": self.tested,
            "measured": self.measured,
            "conditions": self.conditions,
            "verdicts": self.verdicts,
            "seconds": self.seconds,
            "rows": self.rows,
        }
        texts = {".md": page(self), ".json": json.dumps(data, indent=1) + "\n"}
        for suffix, text in texts.items():
            partial = folder / f".{name}{suffix}.partial"
            partial.write_text(text, encoding="utf-8")
            os.replace(partial, folder / f"{name}{suffix}")
        return [folder / f"{name}{suffix}" for suffix in texts]


def read(path: Path) -> Record:
    """A file that write() made. ValueError for any other."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        fields = ("device", "conditions", "verdicts", "seconds", "rows")
        return Record(*(data[name] for name in fields))
    except (OSError, ValueError, KeyError, TypeError) as reason:
        raise ValueError(f"{path} is no record of gpu-check: {reason!r}") from None


def key(row: Row) -> tuple[Any, ...]:
    return row["suite"], row["backend"], tuple(row["shape"])


# The page ----------------------------------------------------------------------------------------


def target_lines(
    targets: Sequence[Target], rows: Iterable[Row], backend: str = "cuda"
) -> list[list[str]]:
    """A table of goals and what was found: "not measured" where nothing was."""
    lines = [["operator", "figure", "goal", "measured", ""]]
    rows = [row for row in rows if row["backend"] == backend]
    for target in targets:
        found, verdict = target.figure(rows), ""
        said = NOT_MEASURED
        if found is not None:
            value, count = found
            verdict = "met" if target.met(value) else "missed"
            missing = len(target.shapes) - count
            said = f"{value:.3g} {target.unit}"
            said += f" ({missing} of {len(target.shapes)} shapes are missing)" if missing else ""
        lines.append([target.operator, target.what, target.wanted, said, verdict])
    return lines


def row_lines(rows: Sequence[Row]) -> list[list[str]]:
    """The rows of one suite: milliseconds of everything, and the ratio to the first baseline."""
    names = list(dict.fromkeys(name for row in rows for name in row.get("ms", {})))
    lines = [["shape", "backend", *(f"{name} ms" for name in names), "ratio", "of floor"]]
    lines[0] += ["peak MB", "baseline's", "error", "clocks before", "clocks after"]
    for row in rows:
        line = ["x".join(map(str, row["shape"])), row["backend"]]
        if "ms" not in row:
            lines.append([*line, row.get("failed", NOT_MEASURED), *[""] * (len(lines[0]) - 3)])
            continue
        times = row["ms"]
        line += [f"{times[name]:.4f}" if name in times else "" for name in names]
        others = [name for name in times if name not in ("ours", "ours, graph")]
        line.append(f"{times[others[0]] / times['ours']:.2f}" if others else "")
        line.append(f"{100 * row['floor ms'] / times['ours']:.0f} %" if "floor ms" in row else "")
        peaks = [f"{value:.1f}" if value is not None else "" for value in row["peak MB"].values()]
        line += [*peaks, *[""] * (2 - len(peaks)), f"{row['error']:.0e}", *row["clocks"]]
        lines.append(line)
    return lines


def kernel_lines(rows: Sequence[Row]) -> list[str]:
    """One line a shape: its kernels, launches a step and microseconds a launch."""
    found = []
    for row in rows:
        if row.get("kernels"):
            said = [
                f"{k['name']} {k['launches']:g} x {k['us']:.1f} us" for k in row["kernels"][:10]
            ]
            shape = "x".join(map(str, row["shape"]))
            found.append(f"- {shape} ({row['backend']}): {'; '.join(said)}")
    return found


def page(record: Record) -> str:
    """The Markdown file of a device."""
    lines = [f"# GPU check: {record.device}", "", "Made by `make gpu-check`.", ""]
    lines += [f"- {name}: {value}" for name, value in record.conditions.items()]
    tests = record.tests.values()
    passed = sum(verdict.startswith("passed") for verdict in tests)
    lines += [f"- tests on the device: {passed} of {len(tests)} operators of a backend pass"]
    lines += ["", "## Targets", ""]
    lines += tables.markdown(target_lines(TARGETS, record.rows))
    for name in SUITES:
        rows = [row for row in record.rows if row["suite"] == name]
        if rows:
            lines += ["", f"## {name}", "", *tables.markdown(row_lines(rows))]
            kernels = kernel_lines(rows)
            lines += ["", "Kernels:", "", *kernels] if kernels else []
    lines += ["", "## Steps", ""]
    verdicts = [["step", "seconds", "what it found"]]
    verdicts += [
        [name, f"{record.seconds.get(name, 0):.0f}", found]
        for name, found in record.verdicts.items()
    ]
    return "\n".join([*lines, *tables.markdown(verdicts)]) + "\n"
