"""Swapping squeeze and excitation: same numbers, same weights, same names, or left alone."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from harness import err, features
from se_blocks import (
    BLOCKS,
    CHANNELS,
    HIDDEN,
    EffectiveSE,
    FunctionalSE,
    Residual,
    SEModule,
    SqueezeExcitation,
    network,
)
from torch import Tensor, nn

from ccdn_ops import swap_squeeze_excite
from ccdn_ops.swap import AttentionLayout


def maps(batch: int = 3, channels: int = CHANNELS, dtype: torch.dtype = torch.float32) -> Tensor:
    return features("dominant", batch, channels, 30, dtype=dtype).unflatten(2, (5, 6))


def results(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Output, gradient of x and of every parameter."""
    leaf = x.detach().clone().requires_grad_()
    out = model(leaf)
    g = torch.randn(out.shape, generator=torch.Generator().manual_seed(5)).to(out)
    inputs = [leaf, *(p for p in model.parameters() if p.requires_grad)]
    return [out.detach(), *torch.autograd.grad(out, inputs, g)]


def check_equal(model: nn.Module, original: nn.Module, x: Tensor, tolerance: float = 1e-5) -> None:
    found, wanted = results(model, x), results(original, x)
    # The bias in front of a batch norm has a gradient that is rounding and nothing else.
    floor = 1e-2 * max(b.norm().item() for b in wanted[1:])
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == b.dtype
        assert (a - b).norm().item() <= tolerance * max(b.norm().item(), floor)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_computes_the_same(name: str, training: bool) -> None:
    torch.manual_seed(0)
    block = BLOCKS[name]().train(training)
    original = copy.deepcopy(block)
    report = swap_squeeze_excite(block)
    assert len(report.replaced) == 1, str(report)
    assert not report.skipped
    assert block.training is training
    check_equal(block, original, maps())
    check_equal(block.double(), original.double(), maps(dtype=torch.float64), 1e-12)


def test_a_network_keeps_everything_but_the_classes() -> None:
    torch.manual_seed(0)
    model = network(*(make() for make in BLOCKS.values()))
    original = copy.deepcopy(model)
    parameters = dict(model.named_parameters())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    report = swap_squeeze_excite(model)
    assert len(report.replaced) == len(BLOCKS)
    assert not report.skipped
    assert torch.get_rng_state().equal(random_state)
    assert list(model.state_dict()) == list(before)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    now = dict(model.named_parameters())
    assert list(now) == list(parameters)
    assert all(now[name] is parameters[name] for name in parameters)
    assert all(p.grad is None and p.requires_grad for p in parameters.values())
    check_equal(model, original, maps(channels=3))
    check_equal(model.eval(), original.eval(), maps(channels=3))


def test_the_report_says_what_was_done() -> None:
    model = network(SEModule(), SEModule(add_maxpool=True), nn.Identity())
    report = swap_squeeze_excite(model)
    (done,), (left,) = report.replaced, report.skipped
    assert done.names == ("1.se",)
    assert done.original == "se_blocks.SEModule"
    assert done.layout == AttentionLayout(("fc1", "bn", "act", "fc2"), ("gate",))
    assert left.names == ("2.se",)
    text = str(report)
    assert text.startswith("1 replaced, 1 skipped")
    assert "mean and maximum" in text
    assert "fc1 > bn > act > fc2" in text
    assert not report.new_parameters


def test_the_root_and_shared_blocks_are_replaced_everywhere() -> None:
    root = SEModule()
    elsewhere = [root]
    original = copy.deepcopy(root)
    report = swap_squeeze_excite(root)
    assert report.replaced[0].names == ("",)
    assert "the model itself" in str(report)
    check_equal(elsewhere[0], original, maps())

    shared = SEModule()
    model = network(shared, shared)
    original = copy.deepcopy(model)
    report = swap_squeeze_excite(model)
    assert report.replaced[0].names == ("1.se", "2.se")
    assert model[1].se is model[2].se is shared
    check_equal(model, original, maps(channels=3))


def test_swapping_again_does_nothing() -> None:
    model = network(SEModule(), SqueezeExcitation())
    swap_squeeze_excite(model)
    classes = [type(m) for m in model.modules()]
    report = swap_squeeze_excite(model)
    assert (report.replaced, report.skipped) == ([], [])
    assert [type(m) for m in model.modules()] == classes


def test_an_optimiser_built_before_stays_valid() -> None:
    torch.manual_seed(0)
    model, x = network(SEModule(), SqueezeExcitation()), maps(channels=3)
    original = copy.deepcopy(model)
    optimisers = [torch.optim.Adam(m.parameters(), 1e-2) for m in (model, original)]
    for step in range(3):
        if step == 1:
            swap_squeeze_excite(model)
        for m, optimiser in zip((model, original), optimisers, strict=True):
            optimiser.zero_grad()
            m(x).square().mean().backward()
            optimiser.step()
    for a, b in zip(model.parameters(), original.parameters(), strict=True):
        assert err(a.detach(), b.detach()) < 1e-4  # Adam divides small gradients by their size


def test_hooks_stay() -> None:
    seen: list[str] = []
    se = SEModule()
    model = nn.Sequential(nn.Conv2d(3, CHANNELS, 1), se)
    handles = [
        se.register_forward_hook(lambda *_: seen.append("block")),
        se.fc1.register_forward_hook(lambda *_: seen.append("layer")),
        se.register_full_backward_hook(lambda *_: seen.append("backward")),
    ]
    report = swap_squeeze_excite(model)
    assert len(report.replaced) == 1
    assert seen == []  # nothing ran the model's own hooks
    model(maps(channels=3)).sum().backward()
    assert seen == ["layer", "block", "backward"]
    for handle in handles:
        handle.remove()
    model(maps(channels=3))
    assert len(seen) == 3


def test_a_layer_that_was_changed_later_is_still_called() -> None:
    """The layers are read at every call: adapters, parametrisations and hooks take part."""
    torch.manual_seed(0)
    model, x = SEModule(), maps()
    original = copy.deepcopy(model)
    swap_squeeze_excite(model)
    for m in (model, original):
        torch.manual_seed(1)
        nn.utils.parametrizations.weight_norm(m.fc1)
        m.fc1.parametrizations.weight.original0.data.mul_(2)
        m.fc2 = nn.Sequential(nn.Conv2d(HIDDEN, CHANNELS, 1), nn.Dropout(0.0))
        m.gate.register_forward_hook(lambda _m, _x, out: out / 2)
    check_equal(model, original, maps())
    assert x.shape == model(x).shape


@pytest.mark.parametrize("name", ["timm", "timm, batch norm", "torchvision, mobilenet", "linear"])
def test_second_order_starts_from_the_same_output(name: str) -> None:
    torch.manual_seed(0)
    model = network(BLOCKS[name](), BLOCKS[name]()).eval()
    x = maps(channels=3)
    before = model(x).detach()
    report = swap_squeeze_excite(model, second_order=True)
    assert err(model(x).detach(), before) < 1e-5
    named = dict(model.named_parameters())
    assert len(report.new_parameters) == 8
    assert all(named[n] is p and p.requires_grad for n, p in report.new_parameters.items())
    assert "1.se.second.fc2.weight" in report.new_parameters

    model.train()
    optimiser = torch.optim.SGD(report.new_parameters.values(), 10.0)
    for step in range(2):
        optimiser.zero_grad()
        model(x).square().sum().backward()
        for n, p in report.new_parameters.items():
            assert p.grad is not None
            # The last layer's gradient is there from the start, the first one's once it is not 0.
            assert bool(p.grad.any()) == (step == 1 or ".fc2." in n), n
        optimiser.step()
    assert err(model.eval()(x).detach(), before) > 1e-4


def test_second_order_can_be_added_later_and_once() -> None:
    model = network(SEModule(), EffectiveSE())
    assert not swap_squeeze_excite(model).new_parameters
    assert len(swap_squeeze_excite(model, second_order=True, iterations=3).new_parameters) == 8
    assert not swap_squeeze_excite(model, second_order=True).new_parameters
    assert "3 iterations" in str(model[1].se) or model[1].se._swap_layout.iterations == 3


def test_second_order_of_the_root_in_its_dtype() -> None:
    model = SEModule().double().eval()
    report = swap_squeeze_excite(model, second_order=True)
    assert next(iter(report.new_parameters)) == "second.fc1.weight"
    assert all(p.dtype == torch.float64 for p in report.new_parameters.values())
    assert not model.second.training


@pytest.mark.parametrize("second_order", [False, True])
def test_copies_files_and_checkpoints(second_order: bool, tmp_path: Any) -> None:
    torch.manual_seed(0)
    model = network(SEModule(), FunctionalSE()).eval()
    fresh = copy.deepcopy(model)
    swap_squeeze_excite(model, second_order)
    for p in model.parameters():
        p.data += 0.01
    x = maps(channels=3)
    wanted = model(x)
    assert copy.deepcopy(model)(x).equal(wanted)
    assert pickle.loads(pickle.dumps(model))(x).equal(wanted)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    swap_squeeze_excite(fresh, second_order)
    fresh.load_state_dict(torch.load(tmp_path / "weights.pt"), strict=True)
    assert fresh(x).equal(wanted)


def test_second_order_is_not_added_under_distributed_data_parallel(tmp_path: Any) -> None:
    """Its reducer was built before, and each process would train weights of its own."""
    where = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=where, rank=0, world_size=1)
    try:
        model = nn.Sequential(SEModule(), nn.Flatten())
        wrapped = nn.parallel.DistributedDataParallel(model)
        names = list(wrapped.state_dict())
        with pytest.raises(ValueError, match="expected the model before it is wrapped"):
            swap_squeeze_excite(wrapped, second_order=True)
        assert list(wrapped.state_dict()) == names
        assert type(model[0]) is SEModule
        assert len(swap_squeeze_excite(wrapped).replaced) == 1  # adds no parameters
    finally:
        torch.distributed.destroy_process_group()


def test_a_layout_that_the_caller_knows() -> None:
    class Gather(nn.Module):
        """Its activation is neither a module nor one of the functions that are tried."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(CHANNELS, HIDDEN, 1), nn.Conv2d(HIDDEN, CHANNELS, 1)

        def forward(self, x: Tensor) -> Tensor:
            hidden = F.softplus(self.a(x.mean((2, 3), keepdim=True)))
            return x * torch.sigmoid(self.b(hidden))

    layout = AttentionLayout(layers=("a", F.softplus, "b"), gate=(torch.sigmoid,))
    for layouts in ({Gather: layout}, lambda _, m: layout if isinstance(m, Gather) else None):
        model = network(Gather(), SEModule())
        original = copy.deepcopy(model)
        assert len(swap_squeeze_excite(copy.deepcopy(model)).replaced) == 1
        assert len(swap_squeeze_excite(model, layouts=layouts).replaced) == 2
        check_equal(model, original, maps(channels=3))
    wrong = AttentionLayout(layers=("a", F.relu, "b"), gate=(torch.sigmoid,))
    model = network(Gather())
    report = swap_squeeze_excite(model, layouts={Gather: wrong})
    assert "output in training differs" in report.skipped[0].reason
    assert type(model[1].se) is Gather


@pytest.mark.parametrize(
    "mode", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)]
)
def test_swapping_in_any_mode(mode: Callable[[], Any]) -> None:
    with mode():
        model = network(SEModule(norm=nn.BatchNorm2d))
        report = swap_squeeze_excite(model)
    assert len(report.replaced) == 1, str(report)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_blocks(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = SEModule().to(dtype)
    original = copy.deepcopy(model)
    assert len(swap_squeeze_excite(model).replaced) == 1
    x = maps(dtype=dtype)
    out = model(x)
    assert out.dtype == dtype
    exact = original.double()(x.double())
    assert err(out.detach(), exact.detach()) <= 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("second_order", [False, True])
def test_autocast_and_channels_last(second_order: bool) -> None:
    torch.manual_seed(0)
    model = network(SEModule(), SqueezeExcitation()).eval()
    x = maps(channels=3)
    wanted = model(x).detach()
    swap_squeeze_excite(model, second_order)
    with torch.autocast("cpu", torch.bfloat16):
        assert err(model(x).detach(), wanted) < 0.05
    last = x.contiguous(memory_format=torch.channels_last)
    block = model[1].se
    features8 = maps().contiguous(memory_format=torch.channels_last)
    assert block(features8).is_contiguous(memory_format=torch.channels_last)
    assert err(model.to(memory_format=torch.channels_last)(last).detach(), wanted) < 1e-5


@pytest.mark.parametrize("second_order", [False, True])
def test_compile_of_a_swapped_model(second_order: bool) -> None:
    torch.manual_seed(0)
    model = network(SEModule(), SqueezeExcitation()).eval()
    x = maps(channels=3)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    before = compiled(x).detach()
    swap_squeeze_excite(model, second_order)
    assert err(compiled(x).detach(), before) < 1e-5  # the change of class is seen
    assert err(torch.compile(model, backend="aot_eager", fullgraph=True)(x).detach(), before) < 1e-5


def test_wrong_arguments() -> None:
    with pytest.raises(TypeError, match=r"model is a list; expected torch\.nn\.Module"):
        swap_squeeze_excite([SEModule()])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="iterations is 11"):
        swap_squeeze_excite(SEModule(), second_order=True, iterations=11)


def test_a_block_says_what_it_became() -> None:
    model = Residual(SEModule())
    swap_squeeze_excite(model, second_order=True)
    assert "SwappedSqueezeExcite" in repr(model)
    assert "SecondOrderBranch" in repr(model)
    with pytest.raises(ValueError, match=r"expected \(B, D, H, W\)"):
        model.se(torch.randn(2, CHANNELS, 5))
