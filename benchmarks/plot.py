"""The ratios of a results table as a picture, on one logarithmic scale.

    python benchmarks/plot.py benchmarks/results/<machine>.md     draws its .png and .svg anew

A table of few rows gets a line for every row, with a mark for every baseline; one of many rows gets
a line for every operator, with a mark for every row. The picture is drawn from the Markdown text
alone, so a run and this command draw the same.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from cases import BASELINES
from tables import geometric_mean

MOST = 80  # rows that get a line each: about 18 inches

# Marks as matplotlib names them; those of the first baseline are what the reader came for.
MARKS = {
    "best eager": {"marker": "o", "s": 46, "color": "#1b6ca8", "zorder": 4},
    "reference": {"marker": "s", "s": 26, "color": "#8a8a8a", "zorder": 3},
    "compiled": {"marker": "D", "s": 20, "color": "#e69138", "zorder": 3},
    "eigh": {"marker": "x", "s": 26, "color": "#333333", "zorder": 3},
    "sqrth": {"marker": "+", "s": 30, "color": "#6a3d9a", "zorder": 3},
}
LINE = 0.23  # inches, of a row
LANE = 0.62  # inches, of an operator
# Where the numbers at the right stand, in shares of the axes' width.
COLUMNS = {"best eager": 1.07, "reference": 1.17}
MEAN, SMALLEST = 1.09, 1.2


class Line(NamedTuple):
    """A row of the table."""

    operator: str
    shape: str
    ratios: dict[str, float]  # by baseline


def read(text: str) -> tuple[str, list[Line]]:
    """The machine and the rows of a Markdown file that tables.summary has written.

    Raises ValueError if there are none.
    """
    heading = re.search(r"^# Benchmarks: (.+)$", text, re.MULTILINE)
    found = []
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        operator, _, rest = section.partition("\n")
        table = [_cells(line) for line in rest.splitlines() if line.startswith("|")]
        if not table or "ms" not in table[0]:
            continue  # the geometric means
        titles, _, *rows = table
        first = next(i for i, title in enumerate(titles) if not title.startswith("x "))
        sizes = slice(first, titles.index("ms"))
        for cells in rows:
            if cells[first] != "geometric mean":
                ratios = dict(zip(titles[:first], cells[:first], strict=True))
                shape = dict(zip(titles[sizes], cells[sizes], strict=True))
                found.append(Line(operator, _named(shape), _numbers(ratios)))
    if heading is None or not found:
        raise ValueError("this is no table of results: there is no heading or there are no rows")
    return heading[1], found


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _numbers(ratios: dict[str, str]) -> dict[str, float]:
    return {title[2:]: float(value) for title, value in ratios.items() if value}


def _named(shape: dict[str, str]) -> str:
    return ", ".join(
        f"{symbol} {value}" if value.isdigit() else value
        for symbol, value in shape.items()
        if value
    )


def draw(text: str) -> dict[str, bytes]:
    """{"png": ..., "svg": ...} of a Markdown file of results."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    machine, lines = read(text)
    groups: dict[str, list[Line]] = {}
    for line in lines:
        groups.setdefault(line.operator, []).append(line)
    if len(lines) > MOST:
        figure = _of_operators(pyplot, machine, groups)
    else:
        figure = _of_rows(pyplot, machine, groups)
    pictures = {}
    for kind in ("png", "svg"):
        buffer = BytesIO()
        # Without a date and with fixed ids the same rows give the same file.
        with matplotlib.rc_context({"svg.hashsalt": "ccdn"}):
            date = {"Date": None} if kind == "svg" else None
            figure.savefig(buffer, format=kind, dpi=130, metadata=date, bbox_inches="tight")
        pictures[kind] = buffer.getvalue()
    pyplot.close(figure)
    return pictures


# Many rows: a line for every operator -------------------------------------------------------------


def _of_operators(pyplot: Any, machine: str, groups: dict[str, list[Line]]) -> Any:
    size = (9.5, LANE * len(groups) + 1.7)
    figure, axes = pyplot.subplots(figsize=size, layout="constrained")
    every = {
        operator: [line.ratios["best eager"] for line in group]
        for operator, group in groups.items()
    }
    _scale(axes, [value for values in every.values() for value in values], len(every) - 0.4)
    # A mark's width on this scale: marks of one place are put above and below each other.
    low, high = axes.get_xlim()
    width = (high / low) ** (1 / 110)
    for place, (operator, values) in enumerate(every.items()):
        _lane(axes, place, values, width)
        mean, least = _number(geometric_mean(values)), _number(min(values))
        _beside(axes, MEAN, place, mean, color=MARKS["best eager"]["color"], weight="bold")
        _beside(axes, SMALLEST, place, least, color="0.35")
        _beside(axes, -0.01, place - 0.12, operator, weight="bold", fontsize=9)
        _beside(axes, -0.01, place + 0.2, f"{len(values)} rows", color="0.4")
    axes.set_yticks([])
    for x, title in ((MEAN, "geometric\nmean"), (SMALLEST, "smallest")):
        axes.text(x, 1, title, transform=axes.transAxes, ha="right", va="bottom", fontsize=8)
    axes.scatter([], [], label="a row", **_ROW)
    axes.scatter([], [], label="their geometric mean", **{**_MEAN, "s": 160})
    _place_legend(axes, 2)
    rows = sum(map(len, every.values()))
    figure.suptitle(
        f"Times as fast as the best plain PyTorch, forward and backward\n{machine}, {rows} rows",
        fontsize=11,
    )
    return figure


_ROW = {
    "marker": "o",
    "s": 22,
    "color": MARKS["best eager"]["color"],
    "alpha": 0.45,
    "linewidth": 0,
    "zorder": 3,
}
_MEAN = {"marker": "|", "s": 520, "color": "#b3261e", "linewidth": 2.2, "zorder": 4}


def _lane(axes: Any, place: int, values: Sequence[float], width: float) -> None:
    axes.axhline(place, color="0.92", linewidth=0.8, zorder=1)
    heights = []
    taken: dict[int, int] = {}
    for value in values:
        column = round(math.log(value) / math.log(width))
        count = taken[column] = taken.get(column, 0) + 1
        heights.append((-1) ** count * (count // 2))
    step = min(0.11, 0.4 / max(1, *map(abs, heights)))
    axes.scatter(values, [place + step * height for height in heights], **_ROW)
    axes.scatter([geometric_mean(values)], [place], **_MEAN)


# Few rows: a line for each ------------------------------------------------------------------------


def _of_rows(pyplot: Any, machine: str, groups: dict[str, list[Line]]) -> Any:
    lines = sum(map(len, groups.values())) + 2 * len(groups)
    figure, axes = pyplot.subplots(figsize=(9.5, LINE * lines + 1.5), layout="constrained")
    place = 0
    ticks, labels = [], []
    for operator, group in groups.items():
        _title(axes, place, operator, group)
        for line in group:
            place += 1
            _line(axes, place, line)
            ticks.append(place)
            labels.append(line.shape)
        place += 2
    every = [line for group in groups.values() for line in group]
    _scale(axes, [value for line in every for value in line.ratios.values()], place - 1.4)
    axes.set_yticks(ticks, labels, fontsize=8)
    axes.tick_params(axis="y", length=0)
    _legend(axes, every)
    figure.suptitle(f"Times as fast as each baseline, forward and backward\n{machine}", fontsize=11)
    return figure


def _title(axes: Any, place: int, operator: str, group: Sequence[Line]) -> None:
    """The operator above its lines, and the geometric means."""
    _beside(axes, -0.006, place, operator, weight="bold", fontsize=9)
    if len(group) < 2:
        return
    for name, x in COLUMNS.items():
        mean = _number(geometric_mean([line.ratios[name] for line in group]))
        _beside(axes, x, place, f"ø {mean}", color="0.4")


def _line(axes: Any, place: int, line: Line) -> None:
    values = list(line.ratios.values())
    axes.plot([min(1, *values), max(1, *values)], [place, place], color="0.88", zorder=1)
    for name, value in line.ratios.items():
        axes.scatter([value], [place], **MARKS[name])
    for name, x in COLUMNS.items():
        weight = "bold" if name == BASELINES[0] else "normal"
        color = MARKS[name]["color"]
        _beside(axes, x, place, _number(line.ratios[name]), color=color, weight=weight)


def _legend(axes: Any, lines: Sequence[Line]) -> None:
    names = [name for name in BASELINES if any(name in line.ratios for line in lines)]
    for name in names:
        axes.scatter([], [], label=f"x {name}", **MARKS[name])
    _place_legend(axes, len(names))
    for name, x in COLUMNS.items():
        axes.text(
            x,
            1.0,
            "\n".join(f"x {name}".rsplit(" ", 1)),
            transform=axes.transAxes,
            ha="right",
            va="bottom",
            fontsize=8,
            color=MARKS[name]["color"],
        )


# Both ---------------------------------------------------------------------------------------------


def _scale(axes: Any, values: Sequence[float], bottom: float) -> None:
    from matplotlib.ticker import LogLocator

    axes.set_xscale("log")
    axes.set_xlim(min(0.7, 0.85 * min(values)), 1.3 * max(1.5, *values))
    axes.set_ylim(bottom, -0.7)
    axes.axvline(1, color="black", linewidth=0.8, zorder=2)
    axes.grid(axis="x", which="major", color="0.9")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set_xlabel(
        "the baseline's time over ours, logarithmic; right of 1 ours is faster", fontsize=8
    )
    axes.spines[["top", "right", "left"]].set_visible(False)


def _beside(axes: Any, x: float, place: float, text: str, **looks: Any) -> None:
    """Text at a line, right-aligned at x in shares of the axes' width."""
    looks = {"fontsize": 8, "va": "center", "ha": "right", **looks}
    axes.text(x, place, text, transform=axes.get_yaxis_transform(), **looks)


def _place_legend(axes: Any, columns: int) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, frameon=False, fontsize=9)


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def main(arguments: Sequence[str] | None = None) -> None:
    from ccdn.runtime.files import atomic_write

    parser = argparse.ArgumentParser(description="Draws FILE.png and FILE.svg from tables FILE.md.")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.md")
    for path in parser.parse_args(arguments).files:
        try:
            pictures = draw(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            parser.error(f"{path}: {error}")
        for kind, picture in pictures.items():
            with atomic_write(path.with_suffix(f".{kind}")) as file:
                file.write(picture)
            print(f"wrote {path.with_suffix(f'.{kind}')}")


if __name__ == "__main__":
    main()
