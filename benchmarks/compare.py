"""Two trees, before and after: every row of the benchmarks in both, in turn.

    python benchmarks/compare.py ../before .
    CCDN_BENCH=full python benchmarks/compare.py ../before . --operators ctm --out compared.md
    CCDN_BENCH_DTYPE=bfloat16 python benchmarks/compare.py . . --isas x86-64-v3 x86-64-v4

BEFORE and AFTER are folders with a `ccdn_ops` and its built module, such as worktrees. Each has a
process of its own, with this Python and its torch, which only calls the public functions: the
grids, the checks and the clock are those of this file's folder. The two take turns, A B B A, and
what is compared are their fastest rounds, on one thread unless CCDN_BENCH_THREADS says more. What
one of them lacks is left out, and said. Both may be the same tree with two instruction sets. Freed
memory stays with the processes (tree.py). Prints Markdown.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

os.environ.setdefault("CCDN_BENCH_THREADS", "1")

import grid
import tables
from cases import DTYPE
from timing import FULL, THREADS
from tree import Tree

from ccdn_ops.backends import native

ROUND = 5e-3  # seconds of one turn: long beside the change from one process to the other
CALLS_OF_OVERHEAD = 50


@dataclass(frozen=True)
class Compared:
    """Seconds of a call in the fastest round."""

    size: dict[str, object]
    before: float
    after: float

    @property
    def ratio(self) -> float:
        return self.before / self.after


def turns(trees: Sequence[Tree], seconds: float, calls: int | None = None) -> tuple[float, float]:
    """The fastest round of each, both made of as many calls."""
    first = max(tree.ask(calls=1)["seconds"] for tree in trees)
    calls = calls or max(1, min(200, int(ROUND / max(first, 1e-7))))
    best = [float("inf")] * 2
    end, rounds = time.monotonic() + seconds, 0
    while rounds < 2 or time.monotonic() < end:
        for which in (0, 1, 1, 0):
            best[which] = min(best[which], trees[which].ask(calls=calls)["seconds"])
        rounds += 1
    return best[0], best[1]


def compared(
    trees: Sequence[Tree], seconds: float, calls: int | None = None, **what: Any
) -> Compared | str:
    """One row or call in both trees, or why it is left out."""
    size = {}
    for tree in trees:
        answer = tree.ask(**what)
        if missing := answer.get("missing"):
            return f"{tree.name}: {missing}"
        size = answer["size"]
    return Compared(size, *turns(trees, seconds, calls))


def of_operators(
    trees: Sequence[Tree], operators: Sequence[str], seconds: float
) -> tuple[dict[str, list[Compared]], list[str]]:
    """The rows of each operator, and what is left out."""
    found: dict[str, list[Compared]] = {}
    left_out = []
    for operator in operators:
        reasons = [f"{tree.name} has none" for tree in trees if operator not in tree.operators]
        if reasons:
            left_out.append(f"{operator}: {reasons[0]}")
            continue
        for index in range(trees[1].ask(rows=operator)["count"]):
            one = compared(trees, seconds, operator=operator, index=index)
            if isinstance(one, str):
                left_out.append(f"{operator}, row {index}: {one}")
            else:
                found.setdefault(operator, []).append(one)
    return found, left_out


def of_calls(
    trees: Sequence[Tree], seconds: float
) -> tuple[dict[str, tuple[Compared, Compared]], list[str]]:
    """A call without gradients and a forward and backward pass of every operator of both."""
    found, left_out = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for operator, path in trees[1].ask(examples=folder)["paths"].items():
            if operator not in trees[0].operators:
                left_out.append(f"a call of {operator}: {trees[0].name} has none")
                continue
            kinds = [
                compared(trees, seconds, CALLS_OF_OVERHEAD, call=operator, path=path, step=step)
                for step in (False, True)
            ]
            reasons = [one for one in kinds if isinstance(one, str)]
            if reasons:
                left_out.append(f"a call of {operator}: {reasons[0]}")
            else:
                found[operator] = tuple(kinds)
    return found, left_out


def means(rows: dict[str, list[Compared]]) -> list[list[str]]:
    lines = [["x", "smallest", "largest", "operator", "rows"]]
    for operator, some in rows.items():
        ratios = [row.ratio for row in some]
        of_all = (tables.geometric_mean(ratios), min(ratios), max(ratios))
        lines.append([*(f"{ratio:.2f}" for ratio in of_all), operator, str(len(some))])
    return lines


def table(rows: Sequence[Compared]) -> list[list[str]]:
    symbols = list(dict.fromkeys(symbol for row in rows for symbol in row.size))
    lines = [["x", *symbols, "before ms", "after ms"]]
    for row in rows:
        sizes = [str(row.size.get(symbol, "")) for symbol in symbols]
        times = [f"{1e3 * seconds:.3f}" for seconds in (row.before, row.after)]
        lines.append([f"{row.ratio:.2f}", *sizes, *times])
    return lines


def table_of_calls(calls: dict[str, tuple[Compared, Compared]]) -> list[list[str]]:
    lines = [
        ["operator", "inference x", "before us", "after us", "step x", "before us", "after us"]
    ]
    for operator, kinds in calls.items():
        cells = [
            cell
            for one in kinds
            for cell in (f"{one.ratio:.2f}", f"{1e6 * one.before:.1f}", f"{1e6 * one.after:.1f}")
        ]
        lines.append([operator, *cells])
    both = [tables.geometric_mean([kinds[i].ratio for kinds in calls.values()]) for i in (0, 1)]
    lines.append(["geometric mean", f"{both[0]:.2f}", "", "", f"{both[1]:.2f}", "", ""])
    return lines


def summary(
    trees: Sequence[Tree],
    rows: dict[str, list[Compared]],
    calls: dict[str, tuple[Compared, Compared]],
    left_out: Sequence[str],
) -> str:
    """The whole Markdown file."""
    clock = "processor time of the thread" if THREADS == 1 else "time"
    dtype = str(DTYPE).removeprefix("torch.")
    lines = [
        f"# Before and after: {tables.cpu_model()}, {THREADS} threads",
        "",
        f"- date: {datetime.now(timezone.utc):%Y-%m-%d %H:%M UTC}",
        *(f"- {tree.name}: {tree.commit}, {tree.built}" for tree in trees),
        f"- versions: {trees[1].versions}",
        f"- grid: {'full (CCDN_BENCH=full)' if FULL else 'quick'}",
        *(f"- **left out**: {line}" for line in left_out),
        "",
        "x is the time before over the time after, both the fastest of rounds that took turns, in "
        f"{clock}; {dtype}, forward and backward. Rows were checked against the float64 reference "
        "first.",
    ]
    if rows:
        lines += ["", "## Geometric means", "", *tables.markdown(means(rows))]
    for operator, some in rows.items():
        lines += ["", f"## {operator}", "", *tables.markdown(table(some))]
    if calls:
        lines += [
            "",
            "## A call at the smallest sizes",
            "",
            *tables.markdown(table_of_calls(calls)),
        ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "before", type=Path, help="the older tree: a folder with ccdn_ops and its built module"
    )
    parser.add_argument("after", type=Path, help="the newer one")
    parser.add_argument(
        "--operators",
        nargs="*",
        choices=grid.WITH_GRID,
        default=grid.WITH_GRID,
        metavar="NAME",
        help="default: every operator with a grid of its own",
    )
    parser.add_argument(
        "--isas",
        nargs=2,
        choices=native.CPU_ISAS,
        default=(None, None),
        metavar=("BEFORE", "AFTER"),
        help=f"CCDN_CPU_ISA of each, of {', '.join(native.CPU_ISAS)}; default: the machine's best",
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="of a row, both trees together")
    parser.add_argument("--out", type=Path, help="also writes the Markdown into this file")
    options = parser.parse_args(arguments)
    first, second = options.isas
    with (
        Tree("before", options.before, first) as before,
        Tree("after", options.after, second) as after,
    ):
        trees = (before, after)
        if before.versions != after.versions:
            raise SystemExit(f"{before.versions} and {after.versions} cannot be compared")
        rows, left_out = of_operators(trees, options.operators, options.seconds)
        calls, without = of_calls(trees, options.seconds)
        text = summary(trees, rows, calls, [*left_out, *without])
    print(text)
    if options.out:
        from ccdn.runtime.files import atomic_write

        with atomic_write(options.out) as file:
            file.write(text.encode())


if __name__ == "__main__":
    main()
