"""How the benchmarks measure: interleaved rounds, so that a ratio compares like with like."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

THREADS = int(os.environ.get("CCDN_BENCH_THREADS", "2"))
FULL = os.environ.get("CCDN_BENCH") == "full"


@dataclass(frozen=True)
class Timing:
    """Seconds of the fastest and of the median round."""

    best: float
    median: float
    rounds: int


def interleaved(
    functions: dict[str, Callable[[], object]],
    *,
    seconds: float = 3.0,
    min_rounds: int = 3,
    max_rounds: int = 200,
) -> dict[str, Timing]:
    """Time every function once per round, in turn, until the time is used up.

    What disturbs the machine then disturbs all of them. One untimed round comes first.
    """
    for function in functions.values():
        function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    end = time.perf_counter() + seconds
    for round_index in range(max_rounds):
        if round_index >= min_rounds and time.perf_counter() > end:
            break
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return {
        name: Timing(min(values), sorted(values)[len(values) // 2], len(values))
        for name, values in times.items()
    }


def peak_bytes(function: Callable[[], object]) -> int:
    """The most bytes of CPU tensors that `function` holds at once, beyond what was there before."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        function()
    results = profile.profiler.kineto_results  # type: ignore[union-attr]
    changes = [
        (event.start_ns(), event.nbytes())
        for event in results.events()
        if event.name() == "[memory]"
    ]
    held = peak = 0
    for _, change in sorted(changes, key=lambda item: item[0]):
        held += change
        peak = max(peak, held)
    return peak
