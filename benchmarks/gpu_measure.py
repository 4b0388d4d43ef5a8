"""Measures one shape of an operator on a device: first checks the result, then times it.

Times are with cold caches (timing.py), ours and the baseline's in turn, queued on a stream and
replayed from a CUDA graph. `device` is "cuda"; tests pass "cpu" to check that everything can be
measured.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import roofline
import torch
from timing import interleaved
from torch import Tensor

Step = Callable[[], "tuple[Tensor, ...]"]
Row = dict[str, Any]
SECONDS = 0.4  # of timing a shape, after its warm-up


def measured(
    function: Callable[..., Any],
    literal: Callable[..., Any],
    inputs: Sequence[Tensor],
    device: str,
    *,
    baseline: str = "reference",
    floor_bytes: int = 0,
    floor_operations: int = 0,
    product_rate: float = math.inf,
) -> Row:
    """One shape. Baselines: "reference", its "compiled" form, or "" for none (a floor instead)."""
    off = error(function, literal, inputs)
    ours = step(function, inputs)
    runs = {"ours": ours, "ours, graph": graphed(ours, device)}
    other = None
    if baseline == "compiled":
        other = compiled(literal, inputs)
        runs["compiled"] = other
    elif baseline:
        other = step(literal, inputs)
        runs |= {baseline: other, f"{baseline}, graph": graphed(other, device)}
    before = clocks(device)
    times = interleaved(runs, device=device, seconds=SECONDS)
    row: Row = {
        "ms": {name: 1e3 * timing.best for name, timing in times.items()},
        "median ms": {name: 1e3 * timing.median for name, timing in times.items()},
        "error": off,
        "clocks": [before, clocks(device)],
        "kernels": kernel_times(ours, device),
        "peak MB": {
            name: peak_megabytes(run, device)
            for name, run in (("ours", ours), (baseline, other))
            if run is not None
        },
    }
    if floor_bytes:
        by_bytes = floor_bytes / roofline.bandwidth(floor_bytes, device)
        row["floor ms"] = 1e3 * max(by_bytes, floor_operations / product_rate)
    return row


def step(function: Callable[..., Any], inputs: Sequence[Tensor]) -> Step:
    """The outputs, and the gradients of those inputs that require them, for fixed upstream ones."""
    leaves = [x for x in inputs if x.requires_grad]

    def outputs() -> tuple[Tensor, ...]:
        found = function(*inputs)
        return (found,) if isinstance(found, Tensor) else tuple(found)

    if not leaves:
        return outputs
    with torch.no_grad():
        shapes = [(y.shape, y.dtype, y.device) for y in outputs()]
    random = torch.Generator().manual_seed(1)
    upstream = [
        torch.randn(shape, generator=random).to(device, dtype) for shape, dtype, device in shapes
    ]

    def both() -> tuple[Tensor, ...]:
        found = outputs()
        return (*found, *torch.autograd.grad(found, leaves, upstream))

    return both


def error(
    function: Callable[..., Any], literal: Callable[..., Any], inputs: Sequence[Tensor]
) -> float:
    """The largest error of an output or gradient against float64; AssertionError beyond rounding.

    This keeps a wrong kernel from getting a time. The tests judge the last digits.
    """
    wide = [x.detach().double().requires_grad_(x.requires_grad) for x in inputs]
    dtype = inputs[0].dtype
    tolerance = 1e-4 if dtype == torch.float32 else 16 * torch.finfo(dtype).eps
    worst = 0.0
    for y, y64 in zip(step(function, inputs)(), step(literal, wide)(), strict=True):
        off = (y.double() - y64).norm().item() / (y64.norm().item() or 1.0)
        assert off <= tolerance, f"error {off:.1e} > {tolerance:.1e}: no speed is measured"
        worst = max(worst, off)
    return worst


def graphed(function: Step, device: str) -> Step:
    """The step as a CUDA graph: its replay costs no launches. On the CPU the step itself."""
    if device != "cuda":
        return function
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = function()

    def replay() -> tuple[Tensor, ...]:
        graph.replay()
        return found

    return replay


def compiled(function: Callable[..., Any], inputs: Sequence[Tensor]) -> Step:
    torch._dynamo.reset()
    run = step(torch.compile(function, dynamic=False), inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run()
    return run


def kernel_times(function: Step, device: str, calls: int = 3) -> list[dict[str, Any]]:
    """Name, launches a step and microseconds a launch of every kernel, the longest first."""
    if device != "cuda":
        return []
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(calls):
            function()
        torch.cuda.synchronize()
    found = [
        {
            "name": event.key.partition("(")[0].removeprefix("void ")[:80],
            "launches": event.count / calls,
            "us": event.self_device_time_total / event.count,
        }
        for event in profile.key_averages()
        if event.self_device_time_total > 0
    ]
    return sorted(found, key=lambda kernel: -kernel["us"] * kernel["launches"])


def peak_megabytes(function: Step, device: str) -> float | None:
    """Device memory that one step takes on top of its inputs."""
    if device != "cuda":
        return None
    function()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    function()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def clocks(device: str) -> str:
    """The current multiprocessor and memory clocks in MHz, temperature and power."""
    if device != "cuda":
        return ""
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        sm = pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)
        memory = pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM)
        degrees = pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)
        watts = pynvml.nvmlDeviceGetPowerUsage(handle) / 1000
    except Exception as reason:  # a driver without NVML, or a container that hides it
        return f"unknown ({type(reason).__name__})"
    return f"{sm}/{memory} MHz, {degrees} °C, {watts:.0f} W"
