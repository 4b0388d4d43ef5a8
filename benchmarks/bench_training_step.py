"""A whole training step on the CPU: CCDN on the native operators and on the reference, and FCDN.

Float32, batch 8, the paper's widths with stem_stride 2, P = 4: forward pass, objective and backward
pass, without the optimiser, which is the same for all. Prints its own table, because its baselines
are networks and backends, not formulations of one operator. Takes two minutes on two cores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timing import THREADS, interleaved, peak_bytes

import ccdn_ops
from ccdn.config import load_config
from ccdn.models import CCDN, build_model, objective

BATCH = 8
FIELDS = ["model.stem_stride=2"]
GAMMAS = (0.025, 0.01, 0.05)


def network(preset: str) -> CCDN:
    torch.manual_seed(0)
    model = build_model(load_config(preset, FIELDS).model)
    with torch.no_grad():
        model.head.weight.normal_(0, 0.01)  # at its initial zero nothing would flow backward
    return model


def step(model: CCDN, backend: str | None, crops: Any, target: Any) -> Callable[[], torch.Tensor]:
    def run() -> torch.Tensor:
        model.zero_grad(set_to_none=True)
        with ccdn_ops.use_backend(backend):
            loss = objective(model(crops), target, GAMMAS).total
            loss.backward()
        return loss.detach()

    return run


def test_training_step(benchmark: Any, capsys: Any) -> None:
    random = torch.Generator().manual_seed(0)
    crops = torch.rand(BATCH, 3, 128, 128, generator=random)
    target = torch.rand(BATCH, 68, 2, generator=random)
    ccdn = network("paper")
    steps = {
        "CCDN, native": step(ccdn, None, crops, target),
        "CCDN, reference": step(ccdn, "reference", crops, target),
        "FCDN, native": step(network("paper-fcdn"), None, crops, target),
        "Baseline": step(network("paper-baseline"), None, crops, target),
    }
    # Both backends must give the same loss and gradient before they are timed.
    found = []
    for name in ("CCDN, native", "CCDN, reference"):
        loss = steps[name]()
        gradient = torch.cat([w.grad.flatten() for w in ccdn.parameters()])
        found.append((loss, gradient))
    (loss, gradient), (expected, reference) = found
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0)
    assert (gradient - reference).norm() <= 1e-3 * reference.norm()

    peaks = {name: peak_bytes(function) for name, function in steps.items()}
    times = interleaved(steps, seconds=60, min_rounds=3)
    benchmark.pedantic(steps["CCDN, native"], rounds=1)
    ours = times["CCDN, native"]
    with capsys.disabled():
        print(f"\ntraining step, batch {BATCH}, {THREADS} threads, torch {torch.__version__}")
        print(f"{'':18}{'best s':>8}{'median s':>10}{'x CCDN native':>15}{'peak MB':>9}  rounds")
        for name, timing in times.items():
            print(
                f"{name:18}{timing.best:8.2f}{timing.median:10.2f}{timing.best / ours.best:15.3f}"
                f"{peaks[name] / 1e6:9.0f}{timing.rounds:8}"
            )
    benchmark.extra_info.update(
        seconds={name: timing.best for name, timing in times.items()}, peak_bytes=peaks
    )
