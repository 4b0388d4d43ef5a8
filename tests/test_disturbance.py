"""Benchmarks say when their figures are doubtful."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

Load = Callable[[str], ModuleType]


def row(share: float, **size: int) -> Any:
    return SimpleNamespace(operator="gram", size=size, share=share)


def test_shares_above_the_roofline(load: Load) -> None:
    warnings = load("disturbance").warnings
    rows = [row(0.4, B=1), row(1.3, B=2), row(1.7, B=4, D=64), row(1.0, B=8)]
    assert warnings([rows[0], rows[3]], 0.0) == []
    (line,) = warnings(rows, 0.0)
    assert line.startswith("2 of 4 rows exceed 100 % of the roofline, most gram B=4 D=64 with")


def test_a_busy_machine(load: Load) -> None:
    warnings = load("disturbance").warnings
    assert warnings([row(0.4)], None) == []
    assert warnings([row(0.4)], 0.05) == []
    (line,) = warnings([row(0.4)], 1.25)
    assert line.startswith("other programs kept 1.2 cores busy")


def test_the_time_of_other_programs(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine's busy time less the benchmark's own; waiting and the guests' time do not count.

    A fake clock: 10 s pass, in which all programs take 8 s and the benchmark 5 s.
    """
    disturbance = load("disturbance")
    stat = tmp_path / "stat"
    tick = os.sysconf("SC_CLK_TCK")

    def at(seconds: float, own: float, user: float, steal: float) -> None:
        fields = (user, 1, 2, 900, 80, 0, 0, steal, 50, 50)
        ticks = " ".join(str(round(value * tick)) for value in fields)
        stat.write_text(f"cpu  {ticks}\ncpu0 {ticks}\n", encoding="ascii")
        monkeypatch.setattr(disturbance.time, "monotonic", lambda: seconds)
        monkeypatch.setattr(disturbance, "_own_seconds", lambda: own)

    monkeypatch.setattr(disturbance, "STAT", stat)
    at(100, own=20, user=30, steal=4)
    others = disturbance.Others()
    at(110, own=25, user=37, steal=5)
    assert others.cores() == pytest.approx(0.3)
    stat.unlink()
    assert others.cores() is None
    assert disturbance.Others().cores() is None


def test_the_summary_has_them(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = load("tables")
    monkeypatch.setattr(tables, "conditions", dict)
    assert "- **warning**: a doubt" in tables.summary([], 0, "plot.svg", ["a doubt"])
    assert "warning" not in tables.summary([], 0, "plot.svg")
