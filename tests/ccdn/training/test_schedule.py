"""Learning rates at the places that matter, and averaged weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ccdn.config import TrainConfig
from ccdn.training.schedule import AveragedWeights, learning_rate


def rate(step: int, **fields: object) -> float:
    return learning_rate(TrainConfig(**{"epochs": 10, "lr": 1.0, **fields}), step, 100)  # type: ignore[arg-type]


def test_step_halves_at_its_milestones() -> None:
    fields = {"schedule": "step", "milestones": [4, 8], "gamma": 0.5}
    assert [rate(s, **fields) for s in (0, 399, 400, 799, 800, 999)] == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_warm_up_is_linear_and_ends_at_lr() -> None:
    fields = {"schedule": "constant", "warmup": 1.0}
    assert [rate(s, **fields) for s in (0, 49, 99, 100)] == pytest.approx([0.01, 0.5, 1, 1])


def test_cosine_falls_from_lr_to_its_last_share() -> None:
    fields = {"schedule": "cosine", "final_lr": 0.1}
    assert [rate(s, **fields) for s in (0, 500, 1000)] == pytest.approx([1, 0.55, 0.1])


def test_flat_cosine_stays_at_lr_and_then_falls() -> None:
    fields = {"schedule": "flat_cosine", "flat": 0.6, "warmup": 1.0, "final_lr": 0.1}
    steps = (49, 99, 100, 600, 800, 1000)
    assert [rate(s, **fields) for s in steps] == pytest.approx([0.5, 1, 1, 1, 0.55, 0.1])
    late = {**fields, "flat": 0.0, "warmup": 5.0}  # it falls after the warm-up at the earliest
    assert [rate(s, **late) for s in (249, 500, 750)] == pytest.approx([0.5, 1, 0.55])


def test_onecycle_peaks_after_the_warm_up() -> None:
    fields = {"schedule": "onecycle", "warmup": 3.0, "final_lr": 0.0}
    values = [rate(s, **fields) for s in range(1000)]
    assert values.index(max(values)) == 300
    assert values[300] == pytest.approx(1)
    assert values[0] == 0
    assert values[-1] < 1e-4


def test_the_average_follows_slowly_and_counts_exactly() -> None:
    model = nn.BatchNorm1d(2)
    average = AveragedWeights(model, decay=0.9)
    with torch.no_grad():
        model.weight.fill_(3.0)
    model.num_batches_tracked += 7
    average.update(model, step=1)
    expected = 1 + 2 * (1 - 2 / 11)  # decay (1 + 1) / (10 + 1) in the first update
    assert torch.allclose(average.weights["weight"], torch.full((2,), expected))
    assert average.weights["num_batches_tracked"] == 7
    average.update(model, step=10_000)
    assert torch.allclose(average.weights["weight"], torch.full((2,), 0.9 * expected + 0.1 * 3))
