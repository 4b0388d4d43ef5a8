"""Runs of gpu-check whose commands are made up."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from ccdn_ops.report import OPERATORS

TESTED = 2 * len(OPERATORS)  # tests of an operator, of CUDA and of Triton


class Runner:
    """Stands in for the commands of a run: the last of `results` whose words are all in one."""

    def __init__(self, **results: tuple[int, str]) -> None:
        self.results = results
        self.commands: list[list[str]] = []

    def __call__(
        self, command: Sequence[str], seconds: float, silence: float | None = None, **variables: str
    ) -> tuple[int, str]:
        assert seconds > 1
        self.commands.append(list(command))
        for words, result in reversed(self.results.items()):
            if all(any(word in part for part in command) for word in words.split()):
                return result
        if any("gpu_targets.py" in part for part in command):
            return 0, "".join(map(row_line, shapes_of(command)))
        return 0, "35 passed in 1.00s\n"


def shapes_of(command: Sequence[str]) -> list[tuple[str, str, list[int]]]:
    """(suite, backend, shape) of everything that a command of gpu_targets.py measures."""
    suites = importlib.import_module("gpu_targets").SUITES
    names = [part for part in command if part in suites]
    backend = command[command.index("--backend") + 1]
    if "--shapes" in command:
        shapes = json.loads(command[command.index("--shapes") + 1])
        return [(names[0], backend, shape) for shape in shapes]
    first = "--first" in command
    return [(n, backend, list(s)) for n in names for s in suites[n].shapes[: 1 if first else None]]


def row_line(measured: tuple[str, str, list[int]], **more: Any) -> str:
    """What gpu_targets.py prints of a shape."""
    suite, backend, shape = measured
    row = {"suite": suite, "operator": suite, "backend": backend, "shape": shape}
    times = {"ours": 2.0, "ours, graph": 1.0, "reference": 42.0, "reference, graph": 7.0}
    row |= more or {
        "ms": times | {"compiled": 12.0},
        "error": 2e-7,
        "clocks": ["345/3201 MHz", "1980/3201 MHz"],
        "kernels": [{"name": "gram", "launches": 2, "us": 3.25}],
        "peak MB": {"ours": 1.5, "reference": 90.0},
        "floor ms": 1.0,
    }
    return f"row {json.dumps(row)}\n"


def run_of(gpu_check: ModuleType, runner: Runner, **options: Any) -> Any:
    record = gpu_check.Record("NVIDIA Test 9", {"date": "today", "sources": "abc"})
    plan = options.pop("plan", None) or gpu_check.gpu_plan.steps()
    return gpu_check.check(record, plan, run=runner, **options)


def only(gpu_check: ModuleType, name: str) -> list[Any]:
    return [step for step in gpu_check.gpu_plan.steps() if step.name == name]
