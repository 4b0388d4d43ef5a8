"""The rows of the bench_NAME.py as cases, for commands that are no pytest runs."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from cases import Case

HERE = Path(__file__).parent
# The operators that have a grid of their own.
WITH_GRID = sorted(
    path.stem for path in HERE.glob("best_eager/*.py") if (HERE / f"bench_{path.name}").exists()
)


def rows(operator: str) -> list[Callable[[], Case]]:
    """Each makes its case when it is called: the inputs of a whole grid may not fit into memory."""
    test = importlib.import_module(f"bench_{operator}").test_forward_backward
    (mark,) = (mark for mark in test.pytestmark if mark.name == "parametrize")
    names, values = mark.args
    names = [names] if isinstance(names, str) else names
    return [
        partial(_case, test, dict(zip(names, value if len(names) > 1 else (value,), strict=True)))
        for value in values
    ]


def _case(test: Callable[..., None], arguments: dict[str, Any]) -> Case:
    found: list[Case] = []
    test(**arguments, bench=found.append)
    (case,) = found
    return case
