"""What holds the rows that stay far below their roofline: their time, split into parts.

    taskset -c 1 python benchmarks/profile_rows.py                     the quick grids
    CCDN_BENCH=full taskset -c 1 python benchmarks/profile_rows.py     the whole grids, minutes

Every row is timed as the benchmarks time it, ours alone, on one thread unless CCDN_BENCH_THREADS
says more. Those below half of their roofline are repeated in a second process under `perf record`,
each for a fixed time; a sample belongs to the row whose time it falls into and to a part by its
function (parts.py). Writes benchmarks/results/<machine>-profile.md. Needs Linux and its perf.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("CCDN_BENCH_THREADS", "1")

import bench_overhead
import disturbance
import grid
import panels
import parts
import tables
import torch
from cases import NARROW, checked, roofline_seconds, steps
from timing import THREADS, interleaved, thread

from ccdn_ops.backends import native
from ccdn_ops.ops.operator import OPERATORS

DEFAULT = ("dual_squeeze", "isqrt_cov", "covariance_pool", "multi_excite", "ctm")
HALF = 0.5
HERTZ = 2000  # samples a second of processor time

LEGEND = (
    "Each row's share of its roofline is that of the fastest round without a profiler, {how}; "
    "then, in percent of the processor's time, the parts of a repetition under perf, {samples} "
    "samples a row. *ms under perf* is the processor's time of those repetitions on average, in a "
    "process of their own, which gets its memory from the system in another way "
    "than the first where the two differ much. What a compiler inlines counts as its caller. "
    "*{padding}* is arithmetic: the numbers of products and gradients that the panels of 32 "
    "columns compute and nobody needs, taken from those parts. *One call* is arithmetic, too: what "
    "a call costs around the kernels at the smallest sizes (`bench_overhead.py`), by the row's "
    "time; it is most of *{calls}* where a row is short, and the rest is larger memory to hand "
    "out. *{pages}* is all time in the system, which hands them out and takes them back. The last "
    "column names the largest parts that together take half of the time."
)

Key = tuple[str, int]  # operator, number in its grid


@dataclass(frozen=True)
class Slow:
    """A row below half of its roofline."""

    operator: str
    index: int
    size: dict[str, object]
    seconds: float
    share: float
    bound: str


def slow_rows(operators: Sequence[str], seconds: float) -> tuple[list[Slow], Counter[str]]:
    """The rows below half of their roofline, and how many there are of each operator in all."""
    found, counts = [], Counter[str]()
    for operator in operators:
        for index, make in enumerate(grid.rows(operator)):
            case = make()
            ours = {"ours": steps(case)["ours"]}
            checked(case, ours)
            clock = thread if THREADS == 1 else None
            best = interleaved(ours, clock=clock, seconds=seconds)["ours"].best
            limit, bound = roofline_seconds(case)
            counts[operator] += 1
            if limit / best < HALF:
                found.append(Slow(operator, index, case.size, best, limit / best, bound))
    return found, counts


# A row's key, when its repetitions began and ended in ns of perf's clock, and seconds of one.
Times = tuple[str, int, int, int, float]


def repeat(keys: Iterable[Key], seconds: float) -> Iterator[Times]:
    """Repeats each row for `seconds` of processor time, whatever else the processor does."""
    made = {}
    for operator, index in keys:
        made.setdefault(operator, grid.rows(operator))
        step = steps(made[operator][index]())["ours"]
        step()
        step()
        start, begun, count, spent = time.monotonic_ns(), time.process_time(), 0, 0.0
        while spent < seconds:
            step()
            count += 1
            spent = time.process_time() - begun
        yield operator, index, start, time.monotonic_ns(), spent / count


SAMPLE = re.compile(r"\s*(\d+)\.(\d{9}):\s+[0-9a-f]+\s+(.*) \((.*)\)\s*")


def split(lines: Iterable[str], times: Sequence[Times]) -> dict[Key, Counter]:
    """Samples of each row by their parts. lines: `perf script`'s, in any order."""
    starts = [start for _, _, start, _, _ in times]
    found: dict[Key, Counter] = {(operator, index): Counter() for operator, index, *_ in times}
    for line in lines:
        match = SAMPLE.fullmatch(line.rstrip("\n"))
        if match is None:
            raise ValueError(f"perf script printed {line!r}; expected time, address, symbol, file")
        now = int(match[1]) * 10**9 + int(match[2])
        row = bisect_right(starts, now) - 1
        if row >= 0 and now <= times[row][3]:
            operator, index, *_ = times[row]
            found[operator, index][parts.part_of(match[3], match[4])] += 1
    return found


def perf(*arguments: str) -> str:
    """What perf prints. SystemExit where it is missing or fails."""
    if shutil.which("perf") is None:
        raise SystemExit(
            "perf was not found: it is Linux's profiler, in the package linux-perf or linux-tools"
        )
    done = subprocess.run(["perf", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"perf {arguments[0]} failed:\n{done.stderr.strip()}")
    return done.stdout


def profiled(rows: Sequence[Slow], seconds: float) -> tuple[dict[Key, Counter], dict[Key, float]]:
    """Samples of each row by their parts, and the seconds of a repetition, in another process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "rows.json").write_text(json.dumps([(r.operator, r.index) for r in rows]))
        options = ["--event=cpu-clock", f"--freq={HERTZ}", "--clockid=mono", "--quiet"]
        child = [sys.executable, __file__, f"--seconds={seconds}", "--repeat", name]
        data = str(folder / "perf.data")
        perf("record", *options, f"--output={data}", *child)
        times = [tuple(line) for line in json.loads((folder / "times.json").read_text())]
        text = perf("script", f"--input={data}", "--ns", "--fields=time,ip,sym,dso")
        repeated = {(operator, index): each for operator, index, _, _, each in times}
        return split(text.splitlines(), times), repeated


def shares(samples: Counter, rounding: dict[str, float]) -> dict[str, float]:
    """Of a row's time by parts, with what the panels round up as a part of its own."""
    total = sum(samples.values())
    found = {part: samples[part] / total for part in parts.ALL if samples[part]}
    for part, ratio in rounding.items():
        extra = found.get(part, 0) * (1 - 1 / ratio)
        if extra:
            found[part] -= extra
            found[parts.PADDING] = found.get(parts.PADDING, 0) + extra
    return found


def held_by(found: dict[str, float]) -> str:
    """The largest parts, which together take half of the time, the largest first."""
    names: list[str] = []
    for part in sorted(found, key=lambda part: -found[part]):
        if sum(found[name] for name in names) >= HALF:
            break
        names.append(part)
    return ", ".join(names)


def call_seconds(operator: str) -> float:
    """What a forward and backward pass costs around its kernels at the smallest sizes."""
    timed = bench_overhead.of_operator(OPERATORS[operator])
    kept = {name: timed[name] for name in ("kernels both", "step")}
    found = interleaved(kept, clock=thread, calls_in_a_row=50, seconds=1)
    return found["step"].best - found["kernels both"].best


def table(
    rows: Sequence[Slow],
    found: dict[Key, dict[str, float]],
    repeated: dict[Key, float],
    call: float,
) -> list[list[str]]:
    """Titles and one line a row; parts below half a percent everywhere have no column."""
    symbols = list(dict.fromkeys(symbol for row in rows for symbol in row.size))
    of_rows = [found[row.operator, row.index] for row in rows]
    shown = [part for part in parts.ALL if any(o.get(part, 0) >= 0.005 for o in of_rows)]
    lines = [[*symbols, "ms", "of roofline", "ms under perf", *shown, "one call", "held by"]]
    for row, split_ in zip(rows, of_rows, strict=True):
        lines.append(
            [
                *(str(row.size.get(symbol, "")) for symbol in symbols),
                f"{1e3 * row.seconds:.3f}",
                f"{100 * row.share:.0f} % ({row.bound})",
                f"{1e3 * repeated[row.operator, row.index]:.3f}",
                *(f"{100 * split_.get(part, 0):.0f}" for part in shown),
                f"{100 * call / row.seconds:.0f}",
                held_by(split_),
            ]
        )
    return lines


def summary(
    rows: Sequence[Slow],
    counts: Counter[str],
    samples: dict[Key, Counter],
    repeated: dict[Key, float],
    calls: dict[str, float],
    doubts: Sequence[str],
) -> str:
    """The whole Markdown file."""
    lines = [f"# What holds rows below half of their roofline: {tables.cpu_model()}", ""]
    lines += [f"- {name}: {value}" for name, value in tables.conditions().items()]
    lines += [f"- **warning**: {doubt}" for doubt in doubts]
    number = min((sum(counter.values()) for counter in samples.values()), default=0)
    named = {"padding": parts.PADDING, "calls": parts.CALLS, "pages": parts.SYSTEM}
    how = "on one thread in its processor time" if THREADS == 1 else f"on {THREADS} threads"
    lines += ["", LEGEND.format(samples=f"at least {number}", how=how, **named)]
    for operator, count in counts.items():
        few = [row for row in rows if row.operator == operator]
        lines += ["", f"## {operator}", ""]
        lines += [f"Below half of their roofline: {len(few)} of {count} rows.", ""]
        if few:
            found = {
                (row.operator, row.index): shares(
                    samples[row.operator, row.index], panels.rounding(operator, row.size)
                )
                for row in few
            }
            lines += tables.markdown(table(few, found, repeated, calls[operator]))
    return "\n".join(lines) + "\n"


def doubts_of(samples: dict[Key, Counter], cores: float | None) -> list[str]:
    found = disturbance.warnings([], cores)
    kernel = sum(counter[parts.SYSTEM] for counter in samples.values())
    if samples and not kernel:
        found.append(
            "perf saw nothing of the system, whose time is in no part: sysctl"
            " kernel.perf_event_paranoid=1, or run as root"
        )
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "operators", nargs="*", default=DEFAULT, help=f"default: {', '.join(DEFAULT)}"
    )
    parser.add_argument("--seconds", type=float, default=1.2, help="of a row under perf")
    parser.add_argument(
        "--out", type=Path, default=grid.HERE / "results", help="folder for <machine>-profile.md"
    )
    parser.add_argument("--repeat", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if NARROW:
        parser.error("rows are float32 here; unset CCDN_BENCH_DTYPE")
    torch.set_num_threads(THREADS)
    if options.repeat:
        keys = json.loads((options.repeat / "rows.json").read_text())
        times = list(repeat(keys, options.seconds))
        (options.repeat / "times.json").write_text(json.dumps(times))
        return
    if unknown := sorted({*options.operators} - {*grid.WITH_GRID}):
        parser.error(f"no grid of {', '.join(unknown)}; there are {', '.join(grid.WITH_GRID)}")
    if native.module() is None:
        parser.error(str(native.why_missing()))
    perf("version")
    from ccdn.runtime.files import atomic_write

    others = disturbance.Others()
    rows, counts = slow_rows(options.operators, options.seconds / 5)
    calls = {operator: call_seconds(operator) for operator in {row.operator for row in rows}}
    samples, repeated = profiled(rows, options.seconds) if rows else ({}, {})
    text = summary(rows, counts, samples, repeated, calls, doubts_of(samples, others.cores()))
    print(text)
    path = options.out / f"{tables.machine()}-profile.md"
    with atomic_write(path) as file:
        file.write(text.encode())
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
