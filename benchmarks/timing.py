"""How the benchmarks measure: interleaved rounds, so that a ratio compares like with like."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

THREADS = int(os.environ.get("CCDN_BENCH_THREADS", "2"))
FULL = os.environ.get("CCDN_BENCH") == "full"

Function = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Seconds of the fastest and of the median round."""

    best: float
    median: float
    rounds: int


def wall(function: Function, calls: int) -> float:
    """Seconds of one call, the mean of `calls` in a row."""
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) / calls


def thread(function: Function, calls: int) -> float:
    """As `wall`, but the CPU time of this thread: other programs do not count."""
    start = time.thread_time()
    for _ in range(calls):
        function()
    return (time.thread_time() - start) / calls


FLUSHED = 256 << 20  # bytes: more than any device's second-level cache

_flush: list[torch.Tensor] = []


def events(function: Function, calls: int) -> float:
    """Seconds of one call on the current CUDA device, the mean of `calls` with cold caches.

    Each call stands between two events on the current stream, behind a write of a buffer that is
    larger than the caches. That write takes longer than a launch, so that the host is ahead, unless
    the function itself waits for it: then its gaps are part of its time.
    """
    if not _flush:
        _flush.append(torch.empty(FLUSHED, dtype=torch.uint8, device="cuda"))
    pairs = []
    for _ in range(calls):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        _flush[0].zero_()
        start.record()
        function()
        end.record()
        pairs.append((start, end))
    torch.cuda.synchronize()
    return 1e-3 * sum(start.elapsed_time(end) for start, end in pairs) / calls


Clock = Callable[[Function, int], float]

# How a call is timed on a device type. One whose launches are asynchronous needs a clock of its
# own: a wall clock would time the launch.
CLOCKS: dict[str, Clock] = {"cpu": wall, "cuda": events}


def interleaved(
    functions: dict[str, Function],
    *,
    device: str = "cpu",
    clock: Clock | None = None,
    calls_in_a_row: int | None = None,
    seconds: float = 3.0,
    min_rounds: int = 3,
    max_rounds: int = 500,
) -> dict[str, Timing]:
    """Time the functions in turn, round by round, until the time is used up.

    What disturbs the machine then disturbs all of them. One untimed round comes first. A function
    that takes less than 0.2 ms is called several times in a row, so that the clock does not matter;
    one that takes more than 8 times as long as the fastest sits out most rounds. With
    calls_in_a_row all are called as often in every round, so that none finds the processor's caches
    colder than another. The clock is the device's, or another one.
    """
    clock = clock or CLOCKS.get(device)
    if clock is None:
        raise RuntimeError(f"there is no clock for {device} tensors; expected {', '.join(CLOCKS)}")
    first = {}
    for name, function in functions.items():
        function()
        first[name] = max(clock(function, 1), 1e-6)
    calls = {name: calls_in_a_row or max(1, min(50, int(2e-4 / t))) for name, t in first.items()}
    fastest = min(first.values())
    strides = {
        name: 1 if calls_in_a_row else max(1, int(t / fastest / 8)) for name, t in first.items()
    }

    times: dict[str, list[float]] = {name: [] for name in functions}
    end = time.perf_counter() + seconds
    for round_index in range(max_rounds):
        if round_index >= min_rounds and time.perf_counter() > end:
            break
        for name, function in functions.items():
            if round_index % strides[name] != 0:
                continue
            taken = clock(function, calls[name])
            if taken > 0:  # a thread's time was seen to stand still on a virtual machine
                times[name].append(taken)
    for name, values in times.items():
        if len(values) < 2:
            values.append(clock(functions[name], 1))
    return {
        name: Timing(min(values), sorted(values)[len(values) // 2], len(values))
        for name, values in times.items()
    }


def peak_bytes(function: Function) -> int:
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
