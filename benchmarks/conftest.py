"""Collects bench_*.py, gives each row to the tables, and writes the results of a whole run.

pytest benchmarks/ --benchmark-only                    a few minutes
CCDN_BENCH=full pytest benchmarks/ --benchmark-only    the whole grids
CCDN_BENCH_THREADS=4 ...                               default 2
CCDN_BENCH_COMPILE=1 ...                               torch.compile of the reference in every
                                                       row; 0: in none; default: in the first
                                                       short row of every operator
CCDN_BENCH_RESULTS=benchmarks/results ...              also writes <machine>.md, .png and .svg
CCDN_BENCH_DTYPE=bfloat16 or float16 ...               the operators in 16 bits, against float32
                                                       alone; with one thread by its CPU time
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import disturbance
import tables
from cases import DTYPE, NARROW, Case, Row, measure, steps
from timing import THREADS

ROWS = pytest.StashKey[list[Row]]()
FAILED = pytest.StashKey[list[str]]()
OTHERS = pytest.StashKey[disturbance.Others]()


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    named = parent.session.isinitpath(file_path)  # pytest itself collects what it is given by name
    if file_path.name.startswith("bench_") and file_path.suffix == ".py" and not named:
        return pytest.Module.from_parent(parent, path=file_path)
    return None


def pytest_configure(config: pytest.Config) -> None:
    if NARROW and os.environ.get("CCDN_BENCH_RESULTS"):
        raise pytest.UsageError("CCDN_BENCH_RESULTS takes float32 only; unset CCDN_BENCH_DTYPE")
    config.stash[ROWS] = []
    config.stash[FAILED] = []
    config.stash[OTHERS] = disturbance.Others()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of 16 bits only the operators' rows: the other benchmarks choose their own dtypes."""
    if NARROW:
        items[:] = [item for item in items if "bench" in getattr(item, "fixturenames", ())]


@pytest.fixture
def bench(request: pytest.FixtureRequest, benchmark: Any) -> Callable[[Case], Row]:
    """Checks and measures a case, and puts its row into the tables."""

    def run(case: Case) -> Row:
        row = measure(case)
        request.config.stash[ROWS].append(row)
        benchmark.group = case.operator
        benchmark.pedantic(steps(case)["ours"], rounds=5, warmup_rounds=1)
        benchmark.extra_info.update(
            ratios=row.ratios,
            best_ms={name: 1e3 * timing.best for name, timing in row.seconds.items()},
            median_ms={name: 1e3 * timing.median for name, timing in row.seconds.items()},
            rounds=row.seconds["ours"].rounds,
            bytes=row.moved,
            operations=row.operations,
            roofline_ms=1e3 * row.roofline_seconds,
            peak_bytes=row.peaks,
            error=row.error,
        )
        return row

    return run


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Iterator[None]:
    found: Any = yield
    if found.failed:
        item.config.stash[FAILED].append(item.nodeid)
    return found


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    rows = config.stash[ROWS]
    if not rows:
        return
    for operator, group in tables.by_operator(rows).items():
        dtype = f", {DTYPE} against float32" if NARROW else ""
        title = f"{operator}: {THREADS} threads, torch {torch.__version__}{dtype}"
        terminalreporter.section(title)
        for line in tables.aligned(tables.table(group)):
            terminalreporter.write_line(line)
    doubts = disturbance.warnings(rows, config.stash[OTHERS].cores())
    for line in doubts:
        terminalreporter.write_line(f"WARNING: {line}", yellow=True)
    folder = os.environ.get("CCDN_BENCH_RESULTS")
    if folder:
        for path in _write(Path(folder), rows, len(config.stash[FAILED]), doubts):
            terminalreporter.write_line(f"wrote {path}")


def _write(folder: Path, rows: list[Row], failed: int, doubts: list[str]) -> list[Path]:
    import plot

    from ccdn.runtime.files import atomic_write

    name = tables.machine()
    torch.set_num_threads(THREADS)  # for the rates that the summary quotes
    text = tables.summary(rows, failed, f"{name}.svg", doubts)
    contents = {f"{name}.{kind}": data for kind, data in plot.draw(text).items()}
    contents[f"{name}.md"] = text.encode()
    for file_name, content in contents.items():
        with atomic_write(folder / file_name) as file:
            file.write(content)
    return [folder / file_name for file_name in contents]
