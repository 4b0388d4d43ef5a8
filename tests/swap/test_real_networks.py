"""Swapping in networks of timm and torchvision, with random weights: `make test-swap`.

Neither library works with the CPU build of torch that the other tests use, so these tests have
their own environment and are skipped elsewhere.
"""

from __future__ import annotations

import copy
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from ccdn_ops import swap_second_order, swap_squeeze_excite


def library(name: str) -> ModuleType:
    return pytest.importorskip(
        name,
        reason=f"{name} cannot be imported; `make test-swap` has an environment with it",
        exc_type=Exception,  # type: ignore[arg-type] - with a CPU torch it fails in many ways
    )


TIMM = {
    "seresnet50": (16, "timm.layers.squeeze_excite.SEModule"),
    "legacy_seresnet18": (8, "timm.models.senet.SEModule"),
    "efficientnet_b0": (16, "timm.models._efficientnet_blocks.SqueezeExcite"),
    "mobilenetv3_small_100": (9, "timm.models._efficientnet_blocks.SqueezeExcite"),
    "rexnet_100": (13, "timm.layers.squeeze_excite.SEModule"),  # batch norm in the bottleneck
    "ghostnet_100": (7, "timm.models._efficientnet_blocks.SqueezeExcite"),  # hard sigmoid
    "ese_vovnet19b_dw": (4, "timm.layers.squeeze_excite.EffectiveSEModule"),
}
TORCHVISION = {
    "mobilenet_v3_small": (9, "torchvision.ops.misc.SqueezeExcitation"),
    "efficientnet_b0": (16, "torchvision.ops.misc.SqueezeExcitation"),
    "regnet_y_400mf": (16, "torchvision.ops.misc.SqueezeExcitation"),
}
NETWORKS = [f"timm/{name}" for name in TIMM] + [f"torchvision/{name}" for name in TORCHVISION]


def build(name: str) -> tuple[nn.Module, int, str]:
    """The network, how many blocks it has, and their class."""
    source, model = name.split("/")
    torch.manual_seed(0)
    if source == "timm":
        network, expected = library("timm").create_model(model, num_classes=10), TIMM[model]
    else:
        models = library("torchvision").models
        network, expected = getattr(models, model)(num_classes=10), TORCHVISION[model]
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # some start from zero and hide their branch
            nn.init.uniform_(module.weight, 0.5, 1.5)
    network.train()
    with torch.no_grad():
        for _ in range(3):  # running statistics that keep the features' size
            network(images())
    return network, *expected


def images() -> Tensor:
    return torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def err(found: Tensor, wanted: Tensor) -> float:
    return ((found - wanted).norm() / wanted.norm()).item()


def step(network: nn.Module, lr: float, parameters: list[nn.Parameter] | None = None) -> Tensor:
    """One step of training with the same random numbers (dropout) each time; its output."""
    optimiser = torch.optim.SGD(parameters or network.parameters(), lr)
    optimiser.zero_grad()
    torch.manual_seed(2)
    images_of_dtype = images().to(next(network.parameters()).dtype)
    out = network.train()(images_of_dtype)
    nn.functional.cross_entropy(out, torch.tensor([1, 2, 3, 4])).backward()
    optimiser.step()
    return out.detach()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_numbers_and_weights(name: str) -> None:
    network, blocks, cls = build(name)
    original = copy.deepcopy(network)
    keys = list(network.state_dict())
    parameters = list(network.parameters())
    report = swap_squeeze_excite(network)
    assert len(report.replaced) == blocks, str(report)
    assert {done.original for done in report.replaced} == {cls}
    assert not report.skipped, str(report)
    assert list(network.state_dict()) == keys
    assert all(a is b for a, b in zip(network.parameters(), parameters, strict=True))
    with torch.no_grad():
        assert err(network.eval()(images()), original.eval()(images())) <= 1e-5
    # In float32 batch norm over four images of 64 x 64 makes 1e-3 of a rounding in the gradients.
    assert err(step(network.double(), 0.01), step(original.double(), 0.01)) <= 1e-8
    for (key, found), wanted in zip(network.named_parameters(), original.parameters(), strict=True):
        assert (found - wanted).norm() <= 1e-8 * max(wanted.norm().item(), 1.0), key
    original.load_state_dict(network.state_dict(), strict=True)


@pytest.mark.parametrize("name", NETWORKS)
def test_second_order_starts_from_the_same_output(name: str) -> None:
    network, blocks, _ = build(name)
    network.eval()
    with torch.no_grad():
        before = network(images())
        report = swap_squeeze_excite(network, second_order=True)
        assert len(report.replaced) == blocks
        assert err(network(images()), before) <= 1e-5
    added = report.new_parameters
    assert len(added) == 4 * blocks
    weights = [p for n, p in added.items() if n.endswith("second.fc2.weight")]
    for number in range(2):
        step(network, 1.0, list(added.values()))
        assert all(p.grad is not None and p.grad.isfinite().all() for p in added.values())
        moved = [bool(p.any()) for p in weights]
        # A hard sigmoid may be flat for all samples of a block, for either squeeze.
        assert sum(moved) >= blocks - 2, f"step {number}: {sum(moved)} of {blocks} branches learn"
    with torch.no_grad():
        assert err(network.eval()(images()), before) > 1e-5


def test_maximum_pooling_and_other_attention_are_left_alone() -> None:
    timm = library("timm")
    block = timm.layers.SEModule(16, add_maxpool=True)
    channels_last = timm.layers.squeeze_excite.SqueezeExciteCl(16)
    network = nn.Sequential(block, channels_last, timm.layers.EcaModule(16))
    report = swap_squeeze_excite(network)
    assert not report.replaced
    assert "mean and maximum" in report.skipped[0].reason
    assert "does not take" in report.skipped[1].reason


@pytest.mark.parametrize("name", ["timm/vit_tiny_patch16_224", "torchvision/resnet18"])
def test_networks_without_such_blocks_stay_as_they_are(name: str) -> None:
    source, model = name.split("/")
    network = (
        library("timm").create_model(model)
        if source == "timm"
        else getattr(library("torchvision").models, model)()
    )
    classes = [type(module) for module in network.modules()]
    for swap in (swap_squeeze_excite, swap_second_order):
        report = swap(network)
        assert (report.replaced, report.skipped) == ([], [])
    assert [type(module) for module in network.modules()] == classes
