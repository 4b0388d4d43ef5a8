"""The ratios of a run as a picture: one panel an operator, one bar a baseline and shape."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

from cases import BASELINES, Row
from tables import by_operator, cpu_model, geometric_mean
from timing import THREADS

COLOURS = {
    "best eager": "#1b6ca8",
    "reference": "#9fc5e8",
    "compiled": "#e69138",
    "eigh": "#999999",
}


def draw(rows: Sequence[Row]) -> dict[str, bytes]:
    """{"png": ..., "svg": ...}"""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups = by_operator(rows)
    heights = [1.1 + 0.62 * len(group) for group in groups.values()]
    figure, panels = pyplot.subplots(
        len(groups),
        1,
        figsize=(9, sum(heights) + 0.6),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for axes, (operator, group) in zip(panels[:, 0], groups.items(), strict=True):
        _panel(axes, operator, group)
    panels[-1, 0].set_xlabel("times as fast as the baseline (logarithmic)")
    figure.suptitle(f"{cpu_model()}, {THREADS} threads, forward and backward")
    pictures = {}
    for kind in ("png", "svg"):
        buffer = BytesIO()
        # Without a date and with fixed ids the same rows give the same file.
        with matplotlib.rc_context({"svg.hashsalt": "ccdn"}):
            date = {"Date": None} if kind == "svg" else None
            figure.savefig(buffer, format=kind, dpi=130, metadata=date)
        pictures[kind] = buffer.getvalue()
    pyplot.close(figure)
    return pictures


def _panel(axes: Any, operator: str, rows: Sequence[Row]) -> None:
    names = [name for name in BASELINES if any(name in row.ratios for row in rows)]
    thickness = 0.8 / len(names)
    for index, name in enumerate(names):
        found = [(i, row.ratios[name]) for i, row in enumerate(rows) if name in row.ratios]
        places = [i - 0.4 + thickness * (index + 0.5) for i, _ in found]
        values = [value for _, value in found]
        mean = geometric_mean(values)
        label = f"{name} (geometric mean {mean:.2f})"
        # Bars grow from 1: to the left what is slower than its baseline.
        bars = axes.barh(
            places, [v - 1 for v in values], thickness, left=1, color=COLOURS[name], label=label
        )
        for bar, value in zip(bars, values, strict=True):
            right = value >= 1
            axes.annotate(
                f"{value:.2f}" if value < 10 else f"{value:.0f}",
                (value, bar.get_y() + bar.get_height() / 2),
                xytext=(3 if right else -3, 0),
                textcoords="offset points",
                ha="left" if right else "right",
                va="center",
                fontsize=7,
            )
    every = [value for row in rows for value in row.ratios.values()]
    axes.set_xscale("log")
    axes.set_xlim(min(0.8, 0.7 * min(every)), 1.6 * max(1.5, *every))
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [_shape(row) for row in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_title(operator, loc="left", fontsize=11)
    axes.legend(
        fontsize=7, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(names), frameon=False
    )
    axes.spines[["top", "right"]].set_visible(False)


def _shape(row: Row) -> str:
    return ", ".join(
        f"{symbol} {value}" if str(value).isdigit() else str(value)
        for symbol, value in row.size.items()
    )
