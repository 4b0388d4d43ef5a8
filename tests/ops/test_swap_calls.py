"""A replaced block takes every call that it took before, and follows what its code reads."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from published import MPNCOV, SOCA
from se_blocks import CHANNELS, HIDDEN, SEModule, SqueezeExcitation
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ccdn_ops import swap_second_order, swap_squeeze_excite, unswap

SWITCH = True  # what a block reads of its module


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(CHANNELS, HIDDEN, 1), nn.Conv2d(HIDDEN, CHANNELS, 1)

    def logits(self, x: Tensor) -> Tensor:
        return self.up(F.relu(self.down(x.mean((2, 3), keepdim=True))))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.logits(x))


class Masked(Block):
    def forward(self, x: Tensor, valid: Tensor | None = None, *, scale: float = 1) -> Tensor:
        if valid is None:
            return scale * super().forward(x)
        mean = (x * valid).sum((2, 3), keepdim=True) / valid.sum((2, 3), keepdim=True)
        return scale * x * torch.sigmoid(self.up(F.relu(self.down(mean))))


class Open(Block):
    def forward(self, x: Tensor, *others: Tensor, **options: Any) -> Tensor:
        return super().forward(x) * (1 + len(others) + len(options))


class AnyRank(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(CHANNELS, HIDDEN), nn.Linear(HIDDEN, CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.up(F.relu(self.down(x.flatten(2).mean(2)))))
        return x * gate.view(*gate.shape, *[1] * (x.dim() - 2))


class Annealed(Block):
    temperature = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.logits(x) / self.temperature)


class Configured(Block):
    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(enabled=True, inner=SimpleNamespace(scale=1.0))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.logits(x) * self.config.inner.scale) if self.on() else x

    def on(self) -> bool:
        return self.config.enabled


class Global(Block):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if SWITCH else x


class Precise(Block):
    """Computes something else in half precision."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.dtype != torch.float16 else x


class Scaled(nn.Sequential):
    scale = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale


class Contained(nn.Module):
    """Its layers are called, the container that they are in is not any more."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = Scaled(nn.Linear(CHANNELS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CHANNELS))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.fc(self.pool(x).flatten(1)))[..., None, None]


class Operators(TorchDispatchMode):
    """Names those that run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, f: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found += [str(f)] if str(f).startswith("ccdn.") else []
        return f(*args, **(kwargs or {}))


def maps(*shape: int) -> Tensor:
    return torch.randn(shape or (2, CHANNELS, 5, 6), generator=torch.Generator().manual_seed(1))


def swapped(block: nn.Module, swap: Any = swap_squeeze_excite) -> tuple[nn.Module, nn.Module]:
    """A block in a model, replaced, and the same as it was."""
    torch.manual_seed(0)
    model = nn.Sequential(block)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    original = copy.deepcopy(model)
    report = swap(model)
    assert len(report.replaced) == 1, str(report)
    return model, original


Call = Callable[[nn.Module], Any]


def check(model: nn.Module, original: nn.Module, call: Call, operators: bool) -> None:
    """The same output, or the same kind of error, by the operators or not."""
    try:
        wanted = call(original)
    except Exception as error:
        with pytest.raises(type(error)):
            call(model)
        return
    with Operators() as ran:
        found = call(model)
    assert bool(ran.found) == operators
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


CALLS: dict[str, tuple[Callable[[], nn.Module], Call, bool]] = {
    "the map alone": (Masked, lambda m: m[0](maps()), True),
    "the map by its name": (Masked, lambda m: m[0](x=maps()), True),
    "a mask": (Masked, lambda m: m[0](maps(), (maps() > 0).float()), False),
    "a mask by its name": (Masked, lambda m: m[0](maps(), valid=(maps() > 0).float()), False),
    "no mask, said": (Masked, lambda m: m[0](maps(), None), False),
    "a keyword alone": (Masked, lambda m: m[0](maps(), scale=2), False),
    "an unknown keyword": (Masked, lambda m: m[0](maps(), mask=None), False),
    "nothing": (Masked, lambda m: m[0](), False),
    "others": (Open, lambda m: m[0](maps(), maps(), other=3), False),
    "another name of the map": (SqueezeExcitation, lambda m: m[0](x=maps()), True),
    "sound": (AnyRank, lambda m: m(maps(2, CHANNELS, 9)), False),
    "volumes": (AnyRank, lambda m: m(maps(2, CHANNELS, 3, 4, 5)), False),
    "rank 4": (AnyRank, lambda m: m(maps()), True),
    "no batch": (SEModule, lambda m: m(maps(CHANNELS, 5, 6)), False),
    "an empty map": (Block, lambda m: m(maps(2, CHANNELS, 0, 6)), False),
    "whole numbers": (Block, lambda m: m(maps().long()), False),
    "no tensor": (Block, lambda m: m([1, 2]), False),
    "vmap": (Block, lambda m: torch.func.vmap(m)(maps(2, 3, CHANNELS, 5, 6)), True),
    "jvp": (Block, lambda m: torch.func.jvp(m, (maps(),), (maps() + 1,))[1], False),
    "dropout later": (
        Contained,
        lambda m: (m[0].fc.append(nn.Tanh()), m(maps()))[1],
        False,
    ),
    "another pool later": (
        Contained,
        lambda m: (setattr(m[0], "pool", nn.AdaptiveMaxPool2d(1)), m(maps()))[1],
        False,
    ),
    "a hook on a part that is not called": (
        Contained,
        lambda m: (m[0].pool.register_forward_hook(lambda *a: 2 * a[2]), m(maps()))[1],
        False,
    ),
    "a hook on the block": (
        Contained,
        lambda m: (m[0].register_forward_hook(lambda *a: 2 * a[2]), m(maps()))[1],
        True,
    ),
    "a hook that changes arguments": (
        Masked,
        lambda m: (
            m[0].register_forward_pre_hook(lambda _, x: (x[0], (x[0] > 0).float())),
            m(maps()),
        )[1],
        False,
    ),
    "forward set on the block later": (
        Block,
        lambda m: (setattr(m[0], "forward", lambda x: x + 1), m(maps()))[1],
        False,
    ),
    "a layer in front later": (
        Block,
        lambda m: (setattr(m[0], "down", nn.Sequential(m[0].down, nn.Tanh())), m(maps()))[1],
        True,
    ),
}


@pytest.mark.parametrize("case", CALLS)
def test_every_call_that_worked_works(case: str) -> None:
    make, call, operators = CALLS[case]
    model, original = swapped(make())
    check(model, original, lambda m: m(maps()), operators=True)
    check(model, original, call, operators)


@pytest.mark.parametrize(
    ("make", "path", "value"),
    [
        (Annealed, "temperature", 4.0),
        (Configured, "config.enabled", False),
        (Configured, "config.inner.scale", 3.0),
        (Contained, "fc.scale", 2.0),
        (SEModule, "add_maxpool", True),
    ],
)
def test_an_attribute_that_changes_is_followed(
    make: Callable[[], nn.Module], path: str, value: object
) -> None:
    model, original = swapped(make())
    *owners, name = path.split(".")

    def set_to(value: object) -> Call:
        def call(m: nn.Module) -> Tensor:
            owner: Any = m[0]  # type: ignore[index]
            for part in owners:
                owner = getattr(owner, part)
            setattr(owner, name, value)
            return m(maps())

        return call

    owner: Any = model[0]  # type: ignore[index]
    for part in owners:
        owner = getattr(owner, part)
    before = getattr(owner, name)
    check(model, original, set_to(value), operators=False)
    with pytest.raises(AssertionError):  # that is another output
        torch.testing.assert_close(model(maps()), set_to(before)(original))
    check(copy.deepcopy(model), original, set_to(value), operators=False)
    check(model, original, set_to(before), operators=True)
    check(copy.deepcopy(model), original, set_to(before), operators=True)
    check(pickle.loads(pickle.dumps(model)), original, set_to(before), operators=True)


def test_an_attribute_of_the_class_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, original = swapped(Annealed())
    monkeypatch.setattr(Annealed, "temperature", 4.0)
    check(model, original, lambda m: m(maps()), operators=False)


def test_a_constant_of_the_module_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, original = swapped(Global())
    check(model, original, lambda m: m(maps()), operators=True)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(maps()), original(maps()))
    monkeypatch.setattr(sys.modules[__name__], "SWITCH", False)
    check(model, original, lambda m: m(maps()), operators=False)
    assert compiled(maps()).equal(maps())


def test_a_compiled_block_follows_its_attributes() -> None:
    model, original = swapped(Configured())
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for scale in (1.0, 3.0, 1.0):
        for m in (model, original):
            m[0].config.inner.scale = scale  # type: ignore[index]
        torch.testing.assert_close(compiled(maps()), original(maps()))


def test_the_report_names_what_a_replacement_depends_on() -> None:
    report = swap_squeeze_excite(Configured())
    assert report.replaced[0].attributes == "config.enabled=True, config.inner.scale=1.0"
    assert "while config.enabled=True, config.inner.scale=1.0" in str(report)
    report = swap_squeeze_excite(Global())
    assert report.replaced[0].attributes == f"{__name__}.SWITCH=True"
    assert "while" not in str(swap_squeeze_excite(Block()))


def test_second_order_layers_take_what_they_took() -> None:
    model, original = swapped(SOCA(16, 4), swap_second_order)
    check(model, original, lambda m: m(maps(2, 16, 5, 6)), operators=True)
    check(model, original, lambda m: m(maps(2, 16, 30)), operators=False)  # an error before, too
    head, plain = swapped(MPNCOV(5, input_dim=12), swap_second_order)
    check(head, plain, lambda m: m(maps(2, 12, 5, 6)), operators=True)
    check(head, plain, lambda m: m(maps(2, 12, 30)), operators=False)
    check(head, plain, lambda m: (setattr(m[0], "iterNum", 3), m(maps(2, 12, 5, 6)))[1], False)


def test_a_dtype_of_its_own_is_left_to_its_own_forward() -> None:
    model, original = swapped(Precise())
    assert swap_squeeze_excite(Precise()).replaced[0].attributes == "in float32, float64, bfloat16"
    check(model.double(), original.double(), lambda m: m(maps().double()), operators=True)
    check(model.half(), original.half(), lambda m: m(maps().half()), operators=False)


def test_other_channels_stay_an_error() -> None:
    model, _ = swapped(SEModule())
    with pytest.raises(ValueError, match="reduce_weight has shape"):
        model(maps(2, 3, 5, 6))


def test_a_block_stays_an_instance_of_its_class() -> None:
    model, _ = swapped(SEModule())
    assert isinstance(model[0], SEModule)  # type: ignore[index]
    assert type(model[0]) is type(copy.deepcopy(model)[0])  # type: ignore[index]


def test_a_branch_of_second_order_refuses_what_it_cannot_compute() -> None:
    """The block's own forward does not have the branch, so it cannot stand in."""
    model = nn.Sequential(Annealed(), Masked())
    assert len(swap_squeeze_excite(model, second_order=True).new_parameters) == 8
    with pytest.raises(ValueError, match=r"expected \(B, D, H, W\)"):
        model(maps(2, CHANNELS, 5))
    with pytest.raises(TypeError, match=r"takes x \(B, D, H, W\) alone"):
        model[1](maps(), maps())
    assert model[1](x=maps()).shape == maps().shape
    model[0].temperature = 2.0
    with pytest.raises(RuntimeError, match=r"temperature=1\.0"):
        model(maps())


@pytest.mark.parametrize("norm", ["weight_norm", "old spectral_norm"])
def test_layers_with_a_parametrisation(norm: str) -> None:
    block = SEModule()
    if norm == "weight_norm":
        nn.utils.parametrizations.weight_norm(block.fc1)
    else:
        nn.utils.spectral_norm(block.fc1)
    original = copy.deepcopy(block)
    report = swap_squeeze_excite(block)
    assert len(report.replaced) == 1, str(report)
    for training in (True, False):
        found, wanted = block.train(training)(maps()), original.train(training)(maps())
        torch.testing.assert_close(found, wanted)
        found.square().sum().backward()
        wanted.square().sum().backward()
        for a, b in zip(block.parameters(), original.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)


def test_a_file_of_a_swapped_model_is_read_in_another_process(tmp_path: Any) -> None:
    """Its classes are made when they are needed, and have to be made again there."""
    import subprocess

    model, original = swapped(SEModule())
    torch.save((model, original, maps()), tmp_path / "model.pt")
    code = (
        "import sys, torch; sys.path.insert(0, sys.argv[2]); import ccdn_ops\n"
        "model, original, x = torch.load(sys.argv[1], weights_only=False)\n"
        "assert type(model[0]).__name__ == 'SwappedSqueezeExcite', type(model[0])\n"
        "torch.testing.assert_close(model(x), original(x))\n"
    )
    where = sys.modules[SEModule.__module__].__file__
    assert where is not None
    folder = where.rpartition("/")[0]
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "model.pt"), folder], check=True, timeout=300
    )


def test_unswap_gives_the_classes_back() -> None:
    model = nn.Sequential(SEModule(), Masked())
    classes, keys = [type(m) for m in model.modules()], [set(vars(m)) for m in model.modules()]
    assert len(swap_squeeze_excite(model).replaced) == 2
    assert unswap(model) == ["0", "1"]
    assert [type(m) for m in model.modules()] == classes
    assert [set(vars(m)) for m in model.modules()] == keys
    assert unswap(model) == []
    assert len(swap_squeeze_excite(model, second_order=True).replaced) == 2
    with pytest.raises(ValueError, match="0 has a second-order branch"):
        unswap(model)
    with pytest.raises(TypeError, match="model is a list"):
        unswap([])  # type: ignore[arg-type]
