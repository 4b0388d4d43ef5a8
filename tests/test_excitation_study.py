"""What the study of the excitations measures: each order's gates, and what their variation does."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch

from ccdn.config import Config, ModelConfig
from ccdn.models import CCDN, build_model

CONFIG = Config(
    model=ModelConfig(
        input_size=32,
        stem_channels=4,
        stacks=1,
        depth=1,
        channels=8,
        stage_channels=[8, 12],
        excitations=2,
    )
)


@pytest.fixture
def study(load: Any) -> ModuleType:
    return load("excitation_study")


def network(**changes: object) -> CCDN:
    torch.manual_seed(0)
    model = build_model(replace(CONFIG.model, **changes)).double().eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.2)
    return model


@pytest.mark.parametrize(
    "changes", [{}, {"orders": 1}, {"gate_weights": "shared"}, {"squeeze_norm": "layer"}]
)
def test_the_orders_gates_are_the_excitation_s(
    changes: dict[str, object], study: ModuleType
) -> None:
    excitation = network(**changes).ctm_fine
    x = torch.rand(3, 8, 4, 4).double()
    squeezes, gates = study.order_gates(excitation, x)
    assert len(squeezes) == len(gates) == excitation.orders
    excited, pooled = excitation(x)
    total = torch.stack(gates).sum(0)
    torch.testing.assert_close(total[:, :, :, None, None] * x.unsqueeze(1), excited)
    torch.testing.assert_close(total * x.mean((2, 3)).unsqueeze(1), pooled)


def test_gates_that_cannot_vary_cost_nothing(study: ModuleType) -> None:
    model, truth = network(), torch.rand(1, 68, 2).double().expand(3, -1, -1)
    same = torch.rand(1, 3, 32, 32).double().expand(3, -1, -1, -1)
    error, rows = study.study(model, same, truth, CONFIG)
    assert [(row.stage, row.order) for row in rows] == [
        ("T-1", "first"),
        ("T-1", "second"),
        ("T", "first"),
        ("T", "second"),
    ]
    for row in rows:
        assert row.squeeze_spread == pytest.approx(0, abs=1e-12)
        assert row.gate_spread == pytest.approx(0, abs=1e-12)
        assert row.frozen == pytest.approx(0, abs=1e-9 * error)
        assert min(row.squeeze, row.channel_spread, row.landmark_gradient) > 0

    _, rows = study.study(model, torch.rand(3, 3, 32, 32).double(), truth, CONFIG)
    assert all(row.gate_spread > 1e-6 and row.frozen != 0 for row in rows)
    assert len(study.markdown(rows).splitlines()) == 6


def test_cocs_gradient_is_that_of_its_weights(study: ModuleType) -> None:
    crops, truth = torch.rand(3, 3, 32, 32).double(), torch.rand(3, 68, 2).double()
    without = Config(model=CONFIG.model)
    without.train.cocs.t = without.train.cocs.t1 = without.train.cocs.g = 0.0
    _, ours = study.study(network(), crops, truth, CONFIG)
    _, none = study.study(network(), crops, truth, without)
    assert all(row.cocs_gradient > 0 for row in ours)
    assert all(row.cocs_gradient == 0 for row in none)
    assert [row.landmark_gradient for row in ours] == [row.landmark_gradient for row in none]


def test_what_it_cannot_study(study: ModuleType) -> None:
    crops = torch.rand(2, 3, 32, 32).double()
    with pytest.raises(ValueError, match="found the Baseline"):
        study.study(network(ctm=False), crops, torch.rand(2, 68, 2).double(), CONFIG)
    with pytest.raises(ValueError, match="found 7 without"):
        study.study(network(points=7), crops, torch.rand(2, 7, 2).double(), CONFIG)
