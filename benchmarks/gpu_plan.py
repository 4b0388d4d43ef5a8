"""The steps of `make gpu-check` and their order: the cheap and most telling ones first.

`predicted` seconds are predictions for a machine with one large device and 16 cores, until a run
has been recorded: `gpu_check.py --dry-run` adds them up. A step never takes longer than `limit`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from gpu_targets import SUITES

from ccdn_ops.report import OPERATORS

BACKENDS = ("cuda", "triton")
KINDS = ("tests", "targets", "sanitizers", "training")
# Processes at a time, only for tests: Triton compiles on the CPU.
JOBS = max(1, min(8, (os.cpu_count() or 1) // 2))


@dataclass(frozen=True)
class Step:
    """One process (a measurement that breaks is started again for the shapes that are left)."""

    kind: str  # build, or one of KINDS
    what: str  # an operator, suites separated by commas, a tool, or the faces to train on
    backend: str  # cuda, triton; "" where both are meant
    predicted: float
    limit: float
    first: bool = False  # only what shows the most: one test, or the first shape of a suite

    @property
    def name(self) -> str:
        words = [self.kind, self.backend, "at a first look" if self.first else self.what]
        return " ".join(word for word in words if word)

    @property
    def suites(self) -> list[str]:
        return self.what.split(",")

    @property
    def together(self) -> bool:
        """Whether it may run at the same time as its neighbours: what is measured runs alone."""
        return self.kind == "tests"


def steps(
    only: Sequence[str] = KINDS, backends: Sequence[str] = BACKENDS, data: str = ""
) -> list[Step]:
    """Every step, in order. data: the faces that the minutes left at the end train on, if any.

    A first look at each kernel comes before any long step, so that even a run that is cut short
    says which kernels are wrong and about how fast the others are.
    """
    own = [name for name in SUITES if name != "dual_squeeze_compiled"]
    found: list[Step] = []
    if "cuda" in backends:
        found.append(Step("build", "", "", 100, 420))
    for backend in backends:
        found.append(Step("tests", "every operator", backend, 25, 150, first=True))
    for backend in backends:
        found.append(Step("targets", ",".join(own), backend, 30, 150, first=True))
    found += [Step("tests", o, "cuda", 18, 420) for o in OPERATORS if "cuda" in backends]
    measured = "cuda" if "cuda" in backends else "triton"
    found += [_suite(name, measured) for name in own]
    found += [Step("tests", o, "triton", 75, 420) for o in OPERATORS if "triton" in backends]
    found.append(_suite("dual_squeeze_compiled", measured))
    if "cuda" in backends:
        found += [Step("sanitizers", tool, "", 90, 240) for tool in ("memcheck", "racecheck")]
    if len(backends) > 1:
        found += [_suite(name, "triton") for name in own]
    if data:
        found.append(Step("training", data, "", 240, 540))
    return [step for step in found if step.kind in (*only, "build")]


def _suite(name: str, backend: str) -> Step:
    suite = SUITES[name]
    seconds = 7 + suite.predicted * len(suite.shapes)
    return Step("targets", name, backend, seconds, max(60.0, 3 * seconds))


def batches(plan: Sequence[Step]) -> list[list[Step]]:
    """The steps in order, those in a row that may run at the same time in one list."""
    found: list[list[Step]] = []
    for step in plan:
        if found and step.together and found[-1][-1].together and found[-1][-1].first == step.first:
            found[-1].append(step)
        else:
            found.append([step])
    return found


def predicted(batch: Sequence[Step], jobs: int = JOBS) -> float:
    """Seconds of a batch whose steps share so many processes."""
    total = sum(step.predicted for step in batch)
    return max(total / jobs, *(step.predicted for step in batch)) if batch[0].together else total
