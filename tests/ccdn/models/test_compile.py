"""torch.compile(fullgraph=True), bfloat16 autocast and channels_last, for training and for use.

The quick test traces and differentiates the whole graph with the backend aot_eager, which generates
no code: a graph break, an operator without a fake kernel or one that aliases shows there as well.
Those with inductor, a minute each, and of the other variants are slow tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ccdn.config import ModelConfig
from ccdn.models import CCDN, build_model, objective

TINY = ModelConfig(
    points=5,
    input_size=32,
    stem_stride=2,
    stem_channels=4,
    stacks=1,
    depth=1,
    channels=8,
    stage_channels=[12, 16],
    excitations=3,
)
VARIANTS = {
    "ccdn": {},
    "fcdn": {"orders": 1},
    "baseline": {"ctm": False},
    "integral": {"head": "integral"},
}
GAMMAS = (0.025, 0.01, 0.05)


@pytest.fixture(autouse=True)
def fresh_graphs() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def network(**changes: object) -> CCDN:
    torch.manual_seed(0)
    model = build_model(replace(TINY, **changes))
    with torch.no_grad():
        model.head.weight.normal_(0, 0.1)
    return model


def inputs(channels_last: bool) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    crops, target = torch.rand(4, 3, 32, 32), torch.rand(4, 5, 2)
    if channels_last:
        crops = crops.contiguous(memory_format=torch.channels_last)
    return crops, target


def step(model: CCDN, crops: Tensor, target: Tensor) -> Tensor:
    return objective(model(crops), target, GAMMAS).total


def trained(model: CCDN, function: object, autocast: bool, channels_last: bool) -> list[Tensor]:
    """The loss and the gradients of one step."""
    model.zero_grad()
    if channels_last:
        model.to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = function(model, *inputs(channels_last))
    loss.backward()
    return [loss.detach(), *(w.grad.clone() for w in model.parameters())]


def compare(backend: str, variant: str, autocast: bool, channels_last: bool) -> None:
    compiled = torch.compile(step, fullgraph=True, backend=backend)
    expected = trained(network(**VARIANTS[variant]), step, autocast, channels_last)
    found = trained(network(**VARIANTS[variant]), compiled, autocast, channels_last)
    model = network(**VARIANTS[variant]).double()
    loss = step(model, *(t.double() for t in inputs(False)))
    loss.backward()
    exact = [loss.detach(), *(w.grad for w in model.parameters())]
    # Over all weights: single small gradients are rounding under autocast.
    size = sum(e.square().sum() for e in exact[1:]).sqrt()
    error, eager = (
        sum((v - e).square().sum() for v, e in zip(values[1:], exact[1:], strict=True)).sqrt()
        for values in (found, expected)
    )
    # bfloat16 rounds elsewhere where operators are fused: twice eager's own error.
    assert error <= 2 * eager + 1e-5 * size, f"{error / size:.1e}, eager {eager / size:.1e}"
    torch.testing.assert_close(found[0].double(), exact[0], rtol=1e-1 if autocast else 1e-4, atol=0)
    compare_use(backend, variant, autocast, channels_last)


def compare_use(backend: str, variant: str, autocast: bool, channels_last: bool) -> None:
    model, again = (network(**VARIANTS[variant]).eval() for _ in range(2))
    crops, _ = inputs(channels_last)
    use = torch.compile(again, fullgraph=True, backend=backend)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found_landmarks, expected_landmarks = use(crops).landmarks, model(crops).landmarks
    assert found_landmarks.dtype == expected_landmarks.dtype
    with torch.no_grad():
        exact = model.double()(crops.double()).landmarks
    error = (found_landmarks.double() - exact).norm()
    eager = (expected_landmarks.double() - exact).norm()
    assert error <= 2 * eager + 1e-6 * exact.norm(), f"{error:.1e}, eager {eager:.1e}"


def test_one_graph() -> None:
    compare("aot_eager", "ccdn", autocast=True, channels_last=True)


@pytest.mark.slow
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_one_graph_of_every_variant(variant: str, autocast: bool, channels_last: bool) -> None:
    compare("aot_eager", variant, autocast, channels_last)


@pytest.mark.slow
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_one_graph_in_code(variant: str, channels_last: bool) -> None:
    compare("inductor", variant, False, channels_last)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_use_in_code_under_autocast(variant: str) -> None:
    compare_use("inductor", variant, True, True)


@pytest.mark.slow
@pytest.mark.xfail(
    torch.__version__ < "2.14",
    reason="inductor's backward pass under autocast on the CPU, before torch 2.14, reads a buffer"
    " that it has given away (UnboundLocalError in its code) or has wrong gradients: also of the"
    " Baseline, which has none of our operators",
    strict=False,
)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_training_in_code_under_autocast(variant: str, channels_last: bool) -> None:
    compare("inductor", variant, True, channels_last)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"intermediate": True, "stacks": 2}, {"head": "sum"}])
def test_no_graph_breaks(changes: dict[str, object]) -> None:
    found = torch._dynamo.explain(step)(network(**changes), *inputs(False))
    assert (found.graph_count, found.graph_break_count) == (1, 0), found.break_reasons


class Calls(TorchDispatchMode):
    """Counts the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("changes", [{}, {"orders": 1}, {"fusion_weights": "shared"}])
def test_no_loop_over_excitations_or_samples(changes: dict[str, object]) -> None:
    counts = set()
    for excitations, batch in ((1, 2), (4, 2), (4, 7)):
        model = network(excitations=excitations, **changes)
        with Calls() as calls:
            step(model, torch.rand(batch, 3, 32, 32), torch.rand(batch, 5, 2))
        counts.add(calls.count)
    assert len(counts) == 1, counts


@pytest.mark.parametrize("variant", VARIANTS)
def test_autocast_trains_near_float32(variant: str) -> None:
    expected = trained(network(**VARIANTS[variant]), step, False, False)
    found = trained(network(**VARIANTS[variant]), step, True, True)
    assert all(value.isfinite().all() for value in found)
    torch.testing.assert_close(found[0].float(), expected[0], rtol=0.05, atol=0)
