from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from timing import THREADS

ROWS = pytest.StashKey[list[dict[str, Any]]]()


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    if file_path.name.startswith("bench_") and file_path.suffix == ".py":
        return pytest.Module.from_parent(parent, path=file_path)
    return None


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []


@pytest.fixture
def report(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """Rows for the table at the end; keys are column titles, those with an x are ratios."""
    return request.config.stash[ROWS]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    rows = config.stash[ROWS]
    if not rows:
        return
    titles = list(rows[0])
    if len(rows) > 1:
        means = {t: [math.log(float(row[t])) for row in rows] for t in titles if t.startswith("x ")}
        last = {t: f"{math.exp(sum(logs) / len(logs)):.2f}" for t, logs in means.items()}
        rows = [*rows, {titles[0]: "geometric mean", **last}]
    lines = [titles, *([str(row.get(title, "")) for title in titles] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(titles))]
    terminalreporter.section(f"{THREADS} threads, torch {torch.__version__}")
    for line in lines:
        cells = (cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        terminalreporter.write_line("  ".join(cells))
