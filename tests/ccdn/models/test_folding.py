"""Folded batch norms: the same function with fewer modules."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ccdn.config import load_config
from ccdn.inference.activation_maps import activation_maps
from ccdn.models import CCDN, build_model
from ccdn.models.folding import FOLLOWED, folded

VARIANTS = {
    "ccdn": [],
    "postactivation": ["model.residual=postactivation"],
    "baseline": ["model.ctm=false"],
    "integral": ["model.head=integral", "model.spread=true", "train.loss.kind=laplace"],
    "fused relu": ["model.fusion_activation=relu", "model.fusion_weights=shared"],
    "no norm of stages": ["model.stage_norm=none", "model.stacks=2", "model.intermediate=true"],
}


@pytest.fixture(scope="module", params=VARIANTS)
def network(request: pytest.FixtureRequest, small: list[str]) -> CCDN:
    """Of each kind, with statistics and weights that no fold could leave out unseen."""
    torch.manual_seed(0)
    model = build_model(load_config("tiny", [*small, *VARIANTS[request.param]]).model)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2.0)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_()
        for head in (model.head, model.head_spread):
            if head is not None:
                head.weight.normal_(std=0.1)
    return model.eval()


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-11), (torch.float32, 1e-4)])
def test_the_function_is_the_same(
    network: CCDN, dtype: torch.dtype, bound: float, layout: torch.memory_format
) -> None:
    """In either layout of memory; prediction has the second."""
    model = network.to(dtype)
    x = torch.rand(3, 3, model.input_size, model.input_size, dtype=dtype)
    other = folded(model).to(memory_format=layout)
    gone = sum(len(FOLLOWED.get(type(block), ())) for block in model.modules())
    assert norms(other) == norms(model) - gone
    assert gone > norms(model) / 3
    with torch.no_grad():
        expected, found = model(x), other(x)
    assert expected.landmarks.std(0).min() > 0
    torch.testing.assert_close(found.landmarks, expected.landmarks, rtol=bound, atol=bound)
    torch.testing.assert_close(found.spread, expected.spread, rtol=bound, atol=bound)
    maps = activation_maps(other, x)
    torch.testing.assert_close(maps, activation_maps(model, x), rtol=bound, atol=bound * 10)


def test_the_model_stays_as_it_was(network: CCDN) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    other = folded(network)
    assert network.training
    network.eval()
    assert not other.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.state_dict().keys() == before.keys()
    assert all(weight.requires_grad for weight in network.parameters())
    assert not any(weight.requires_grad for weight in other.parameters())
