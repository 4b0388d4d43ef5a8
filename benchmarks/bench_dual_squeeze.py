"""dual_squeeze on the CPU, forward and backward in float32, against the eager baselines.

    pytest benchmarks/ --benchmark-only                    a few minutes
    CCDN_BENCH=full pytest benchmarks/ --benchmark-only    the whole grid
    CCDN_BENCH_COMPILE=1 ...                               also torch.compile of the reference
    CCDN_BENCH_THREADS=4 ...                               default 2

Every row times the kernels and their baselines in turn, round by round, after checking all results
against the float64 reference. Ratios are of the fastest rounds.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from typing import Any

import best_eager
import pytest
import torch
from timing import FULL, interleaved, peak_bytes
from torch import Tensor

import ccdn_ops
from ccdn_ops import reference

ITERATIONS = 5
COMPILE = os.environ.get("CCDN_BENCH_COMPILE") == "1"
SHAPES = [
    (32, 64, 1024),
    (8, 256, 256),
    (32, 256, 64),
    (32, 512, 49),
    (8, 64, 256),
    (32, 128, 256),
    (8, 256, 1024),
]
GRID = list(itertools.product((8, 32), (64, 128, 256, 512), (49, 64, 256, 1024)))
Squeeze = Callable[[Tensor, int], tuple[Tensor, Tensor]]


def features(batch: int, channels: int, positions: int) -> Tensor:
    """Features with one dominant direction, as networks make them."""
    random = torch.Generator().manual_seed(0)
    direction = torch.randn(batch, channels, 1, generator=random)
    direction = direction * torch.randn(batch, 1, positions, generator=random)
    noise = torch.randn(batch, channels, positions, generator=random)
    return 3 * direction + noise


def step(squeeze: Squeeze, x: Tensor, grads: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """first, second and the gradient of x."""
    outputs = squeeze(x, ITERATIONS)
    return (*outputs, *torch.autograd.grad(outputs, x, grads))


def check(name: str, found: tuple[Tensor, ...], truth: tuple[Tensor, ...]) -> None:
    for y, y64 in zip(found, truth, strict=True):
        error = ((y.double() - y64).norm() / y64.norm()).item()
        assert error < 1e-4, f"{name} is wrong (error {error:.1e}), so it has no speed"


@pytest.mark.parametrize("shape", GRID if FULL else SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_forward_backward(
    shape: tuple[int, int, int], benchmark: Any, report: list[dict[str, Any]]
) -> None:
    chosen = ccdn_ops.explain("dual_squeeze", *shape, dtype=torch.float32, device="cpu")
    if chosen.backend != "cpu":
        pytest.skip(f"the native kernels are not used here: {chosen.rejected}")
    x = features(*shape).requires_grad_()
    random = torch.Generator().manual_seed(1)
    grads = tuple(torch.randn(shape[:2], generator=random) for _ in range(2))
    squeezes: dict[str, Squeeze] = {
        "ours": ccdn_ops.dual_squeeze,
        "best eager": best_eager.dual_squeeze,
        "reference": reference.dual_squeeze,
    }
    if COMPILE:
        squeezes["compiled reference"] = torch.compile(reference.dual_squeeze)

    few = slice(0, 2)  # samples do not influence each other; two of them are check enough
    wide = x[few].detach().double().requires_grad_()
    truth = step(reference.dual_squeeze, wide, tuple(g[few].double() for g in grads))
    functions = {}
    for name, squeeze in squeezes.items():
        functions[name] = lambda squeeze=squeeze: step(squeeze, x, grads)
        check(name, tuple(y[few] for y in functions[name]()), truth)

    times = interleaved(functions, seconds=2 if FULL else 4)
    benchmark.pedantic(functions["ours"], rounds=10, warmup_rounds=1)
    ours = times["ours"].best
    ratios = {name: times[name].best / ours for name in squeezes if name != "ours"}
    moved, operations = sum(chosen.bytes), sum(chosen.operations)
    peaks = {name: peak_bytes(functions[name]) for name in ("ours", "reference")}
    benchmark.extra_info.update(
        ratio=ratios,
        best_ms={name: 1e3 * timing.best for name, timing in times.items()},
        median_ms={name: 1e3 * timing.median for name, timing in times.items()},
        rounds=times["ours"].rounds,
        bytes=moved,
        operations=operations,
        peak_bytes=peaks,
    )
    report.append(
        {
            "(B, D, N)": str(shape),
            "x best eager": f"{ratios['best eager']:.2f}",
            "x reference": f"{ratios['reference']:.1f}",
            **({"x compiled": f"{ratios['compiled reference']:.1f}"} if COMPILE else {}),
            "ms": f"{1e3 * ours:.3f}",
            "GB/s": f"{moved / ours / 1e9:.1f}",
            "Gop/s": f"{operations / ours / 1e9:.0f}",
            "peak MB": f"{peaks['ours'] / 1e6:.1f}",
            "reference's": f"{peaks['reference'] / 1e6:.1f}",
            "rounds": str(times["ours"].rounds),
        }
    )
