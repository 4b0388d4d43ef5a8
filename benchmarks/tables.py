"""Rows as tables: on the terminal, and as Markdown for benchmarks/results/<machine>.md."""

from __future__ import annotations

import math
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path

import roofline
import torch
from cases import BASELINES, Row
from timing import FULL, THREADS

LEGEND = (
    "A ratio is the time of a baseline over ours, both the fastest of interleaved rounds, forward "
    "and backward; every result was checked against the float64 reference first. MB and Mop are "
    "what our algorithm moves, if every tensor moved once, and its multiplications and additions. "
    "The roofline is the longer of a copy of as many bytes and of a matrix product of as many "
    "operations, both measured in this run: above 100 % a row is faster than that copy."
)


def by_operator(rows: Iterable[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.operator, []).append(row)
    return groups


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def table(rows: Sequence[Row]) -> list[list[str]]:
    """Titles, one line a row, and the geometric means; the ratios lead."""
    symbols = list(dict.fromkeys(symbol for row in rows for symbol in row.size))
    titles = [
        *(f"x {name}" for name in BASELINES),
        *symbols,
        "ms",
        "best eager ms",
        "reference ms",
        "float32 ms",
        "MB",
        "Mop",
        "GB/s",
        "Gop/s",
        "of roofline",
        "peak MB",
        "best eager's",
        "reference's",
        "float32's",
        "error",
        "rounds",
        "torch",
    ]
    lines = [[*_ratios(row.ratios), *_line(row, symbols)] for row in rows]
    if len(rows) > 1:
        means = {}
        for name in BASELINES:
            values = [row.ratios[name] for row in rows if name in row.ratios]
            if values:
                means[name] = geometric_mean(values)
        rest = len(titles) - len(BASELINES)
        lines.append([*_ratios(means), "geometric mean", *[""] * (rest - 1)])
    return _filled([titles, *lines])


def _filled(lines: Sequence[list[str]]) -> list[list[str]]:
    """Without the columns that have nothing but a title."""
    titles, *rest = lines
    kept = [i for i, _ in enumerate(titles) if any(line[i] for line in rest)]
    return [[line[i] for i in kept] for line in lines]


def _ratios(ratios: dict[str, float]) -> list[str]:
    return [f"{ratios[name]:.2f}" if name in ratios else "" for name in BASELINES]


def _line(row: Row, symbols: Sequence[str]) -> list[str]:
    ours = row.seconds["ours"].best
    baselines = ("best eager", "reference", "float32")
    times = {name: f"{1e3 * timing.best:.3f}" for name, timing in row.seconds.items()}
    peaks = {name: f"{peak / 1e6:.2f}" for name, peak in row.peaks.items()}
    return [
        *(str(row.size.get(symbol, "")) for symbol in symbols),
        *(times.get(name, "") for name in ("ours", *baselines)),
        f"{row.moved / 1e6:.2f}",
        f"{row.operations / 1e6:.2f}",
        f"{row.moved / ours / 1e9:.1f}",
        f"{row.operations / ours / 1e9:.1f}",
        f"{100 * row.share:.0f} % ({row.bound})",
        *(peaks.get(name, "") for name in ("ours", *baselines)),
        f"{row.error:.0e}",
        str(row.seconds["ours"].rounds),
        torch.__version__,
    ]


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """The table in columns, for a terminal."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    ]


def markdown(lines: Sequence[Sequence[str]]) -> list[str]:
    titles, *rest = lines
    ruler = ["---:"] * len(titles)
    return ["| " + " | ".join(line) + " |" for line in (titles, ruler, *rest)]


def summary(rows: Sequence[Row], failed: int, plot: str, doubts: Sequence[str] = ()) -> str:
    """The whole Markdown file. doubts: warnings about the figures."""
    groups = by_operator(rows)
    lines = [f"# Benchmarks: {cpu_model()}, {THREADS} threads", ""]
    lines += [f"- {name}: {value}" for name, value in conditions().items()]
    if failed:
        lines.append(f"- **{failed} rows failed and are missing**")
    lines += [f"- **warning**: {doubt}" for doubt in doubts]
    lines += [
        "",
        LEGEND,
        "",
        f"![Ratios over shapes]({plot})",
        "",
        "## Geometric means",
        "",
        *markdown(_overview(groups)),
    ]
    for operator, group in groups.items():
        lines += ["", f"## {operator}", "", *markdown(table(group))]
    return "\n".join(lines) + "\n"


def _overview(groups: dict[str, list[Row]]) -> list[list[str]]:
    lines = [[*(f"x {name}" for name in BASELINES), "operator", "rows", "smallest x best eager"]]
    for operator, rows in groups.items():
        means = {}
        for name in BASELINES:
            values = [row.ratios[name] for row in rows if name in row.ratios]
            if values:
                means[name] = geometric_mean(values)
        least = min(row.ratios["best eager"] for row in rows)
        lines.append([*_ratios(means), operator, str(len(rows)), f"{least:.2f}"])
    return _filled(lines)


def conditions() -> dict[str, str]:
    """What the numbers depend on."""
    import numpy

    import ccdn_ops
    from ccdn_ops.backends import native

    module = native.module()
    copy = roofline.bandwidth(roofline.LARGEST_COPY) / 1e9
    product = roofline.matrix_rate(torch.float32) / 1e9
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "processor": f"{cpu_model()}, {os.cpu_count()} cores; {THREADS} threads used",
        "versions": f"ccdn {ccdn_ops.__version__}, torch {torch.__version__}, numpy "
        f"{numpy.__version__}, Python {platform.python_version()}, {platform.system()} "
        f"{platform.release()}",
        "native module": f"{cpu_isa()}, compiler {module.compiler}" if module else "none",
        "PyTorch's instruction set": torch.backends.cpu.get_cpu_capability(),
        "grid": "full (CCDN_BENCH=full)" if FULL else "quick",
        "copy of a large array": f"{copy:.1f} GB/s, read and written",
        "float32 matrix product": f"{product:.0f} Gop/s",
    }


def cpu_model() -> str:
    """The processor's name; the architecture where the system does not say."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    except OSError:
        found = None
    name = found.group(1) if found else platform.processor() or platform.machine()
    return re.sub(r"\s+", " ", re.sub(r"\((R|TM)\)", "", name)).strip()


def cpu_isa() -> str:
    """The instruction set of the native kernels, or "pytorch" without them."""
    from ccdn_ops.backends import native

    module = native.module()
    return "pytorch" if module is None else str(module.cpu_isa())


def machine() -> str:
    """A file name for this machine, its instruction set and the number of threads.

    CCDN_BENCH_MACHINE overrides it.
    """
    name = os.environ.get("CCDN_BENCH_MACHINE") or f"{cpu_model()} {cpu_isa()} {THREADS} threads"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def commit() -> str:
    """The short hash, with + where tracked files differ; "unknown" outside a clone."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    try:
        found = git("rev-parse", "--short", "HEAD")
        dirty = git("status", "--porcelain", "--untracked-files=no", "--", ":!/benchmarks/results")
    except OSError:
        return "unknown"
    return f"{found}{'+' if dirty else ''}" if found else "unknown"
