"""The ratios of a run as a picture: a line for every row, a mark for every baseline, one scale."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

from cases import BASELINES, Row
from tables import by_operator, cpu_model, geometric_mean
from timing import THREADS

# Marks as matplotlib names them; those of the first baseline are what the reader came for.
MARKS = {
    "best eager": {"marker": "o", "s": 46, "color": "#1b6ca8", "zorder": 4},
    "reference": {"marker": "s", "s": 26, "color": "#8a8a8a", "zorder": 3},
    "compiled": {"marker": "D", "s": 20, "color": "#e69138", "zorder": 3},
    "eigh": {"marker": "x", "s": 26, "color": "#333333", "zorder": 3},
    "sqrth": {"marker": "+", "s": 30, "color": "#6a3d9a", "zorder": 3},
}
LINE = 0.23  # inches
# Where the numbers at the right stand, in shares of the axes' width.
COLUMNS = {"best eager": 1.07, "reference": 1.17}


def draw(rows: Sequence[Row]) -> dict[str, bytes]:
    """{"png": ..., "svg": ...}"""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups = by_operator(rows)
    lines = len(rows) + 2 * len(groups)
    figure, axes = pyplot.subplots(figsize=(9.5, LINE * lines + 1.5), layout="constrained")
    place = 0
    ticks, labels = [], []
    for operator, group in groups.items():
        _title(axes, place, operator, group)
        for row in group:
            place += 1
            _line(axes, place, row)
            ticks.append(place)
            labels.append(_shape(row))
        place += 2
    _scale(axes, rows, place - 1)
    axes.set_yticks(ticks, labels, fontsize=8)
    axes.tick_params(axis="y", length=0)
    _legend(axes, rows)
    figure.suptitle(
        f"Times as fast as each baseline, forward and backward\n{cpu_model()}, {THREADS} threads",
        fontsize=11,
    )
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


def _title(axes: Any, place: int, operator: str, rows: Sequence[Row]) -> None:
    """The operator above its lines, and the geometric means."""
    beside = axes.get_yaxis_transform()  # x in shares of the axes, y in lines
    axes.text(
        -0.006,
        place,
        operator,
        transform=beside,
        va="center",
        ha="right",
        weight="bold",
        fontsize=9,
    )
    if len(rows) < 2:
        return
    for name, x in COLUMNS.items():
        mean = _number(geometric_mean([row.ratios[name] for row in rows]))
        axes.text(
            x,
            place,
            f"ø {mean}",
            transform=beside,
            va="center",
            ha="right",
            fontsize=8,
            color="0.4",
        )


def _line(axes: Any, place: int, row: Row) -> None:
    values = list(row.ratios.values())
    axes.plot([min(1, *values), max(1, *values)], [place, place], color="0.88", zorder=1)
    for name, value in row.ratios.items():
        axes.scatter([value], [place], **MARKS[name])
    beside = axes.get_yaxis_transform()
    for name, x in COLUMNS.items():
        axes.text(
            x,
            place,
            _number(row.ratios[name]),
            transform=beside,
            va="center",
            ha="right",
            fontsize=8,
            color=MARKS[name]["color"],
            weight="bold" if name == BASELINES[0] else "normal",
        )


def _scale(axes: Any, rows: Sequence[Row], lines: int) -> None:
    every = [value for row in rows for value in row.ratios.values()]
    axes.set_xscale("log")
    axes.set_xlim(min(0.7, 0.85 * min(every)), 1.3 * max(1.5, *every))
    axes.set_ylim(lines - 0.4, -0.7)
    axes.axvline(1, color="black", linewidth=0.8, zorder=2)
    axes.grid(axis="x", which="major", color="0.9")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set_xlabel(
        "the baseline's time over ours, logarithmic; right of 1 ours is faster", fontsize=8
    )
    axes.spines[["top", "right", "left"]].set_visible(False)


def _legend(axes: Any, rows: Sequence[Row]) -> None:
    names = [name for name in BASELINES if any(name in row.ratios for row in rows)]
    for name in names:
        axes.scatter([], [], label=f"x {name}", **MARKS[name])
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=len(names), frameon=False, fontsize=9
    )
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


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def _shape(row: Row) -> str:
    return ", ".join(
        f"{symbol} {value}" if str(value).isdigit() else str(value)
        for symbol, value in row.size.items()
    )
