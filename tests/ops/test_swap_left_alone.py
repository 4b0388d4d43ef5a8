"""What swap_squeeze_excite leaves alone, and why: everything that is not certainly such a block."""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Callable
from types import MethodType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from se_blocks import (
    CHANNELS,
    HIDDEN,
    SEModule,
    SqueezeExcitation,
    SqueezeExciteCl,
)
from torch import Tensor, nn

from ccdn_ops import swap_squeeze_excite


class _WithDropout(SEModule):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.dropout(x, 0.5, self.training))


class _WithCall(SEModule):
    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x) * 2


class _Registered(SEModule):
    def __init_subclass__(cls) -> None:
        raise AssertionError("a swap made a subclass of a class that registers its subclasses")


class _Meta(type):
    pass


class _OfMetaclass(SEModule, metaclass=_Meta):
    pass


class _WithState(SEModule):
    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return super().state_dict(*args, **kwargs)


class _WithParameter(SEModule):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))


class _WithBuffer(SEModule):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))


class _OnlyLarge(SEModule):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.shape[2] < 64 else x


WIDEST = 48
CONFIGURATION = {"enabled": True}
STATISTICS: list[float] = []


def _helper(block: SEModule, x: Tensor, rows: int = 72) -> Tensor:
    return SEModule.forward(block, x) if x.shape[2] < rows else x


def _made(forward: Callable[[Any, Tensor], Any], **attributes: Any) -> Callable[[], nn.Module]:
    """A block of another forward, which calls `block.plain(x)`, with some attributes."""

    class Made(SEModule):
        def plain(self, x: Tensor) -> Tensor:
            return super().forward(x)

        def __init__(self) -> None:
            super().__init__()
            for name, value in attributes.items():
                setattr(self, name, value)

    Made.forward = forward  # type: ignore[assignment,method-assign]
    return Made


def _tiled(self: Any, x: Tensor) -> Tensor:
    if x.shape[2] <= self.tile:
        return self.plain(x)
    pooled = F.avg_pool2d(x, (self.tile, x.shape[3]), ceil_mode=True, count_include_pad=False)
    gate = self.gate(self.fc2(self.act(self.bn(self.fc1(pooled)))))
    return x * F.interpolate(gate, x.shape[2:])


def _counts(self: Any, x: Tensor) -> Tensor:
    self.calls += 1
    return self.plain(x) if self.calls < 1000 else x


def _keeps(self: Any, x: Tensor) -> Tensor:
    self.last = self.plain(x)
    return self.last


def _appends(self: Any, x: Tensor) -> Tensor:
    self.seen.append(len(x))
    return self.plain(x)


def _in_place(self: Any, x: Tensor) -> Tensor:
    if torch.is_grad_enabled():
        return self.plain(x)
    return x.copy_(self.plain(x))


def _sets_a_global(self: Any, x: Tensor) -> Tensor:
    global WIDEST
    WIDEST = 48
    return self.plain(x)


def _noisy(self: Any, x: Tensor) -> Tensor:
    return self.plain(x) + 0 * torch.rand(())


def _dropped(self: Any, x: Tensor) -> Tensor:
    keep = torch.rand(len(x), 1, 1, 1) > 0.3 if self.training else 1
    return self.plain(x) * keep


# Each computes squeeze and excitation on most maps, or changes what no output shows.
SOMETIMES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "a size in an attribute": (_made(_tiled, tile=64), "code mentions tile = 64"),
    "a size in a configuration": (
        _made(
            lambda s, x: s.plain(x) if x.shape[3] < s.config.tile else x,
            config=SimpleNamespace(tile=50),
        ),
        "config.tile = 50",
    ),
    "a size in the module": (
        _made(lambda s, x: s.plain(x) if x.shape[3] < WIDEST else x),
        "WIDEST = 48",
    ),
    "a size in a function's default": (_made(_helper), "default argument = 72"),
    "a size that is computed": (
        _made(lambda s, x: s.plain(x) if x.shape[2] < s.part * s.part else x, part=9),
        "compares sizes",
    ),
    "the number of elements": (
        _made(lambda s, x: s.plain(x) if x.numel() < 4 * s.part * CHANNELS else x, part=99),
        "differs",
    ),
    "the batch": (_made(lambda s, x: s.plain(x) if len(x) < 33 else x), "in a batch of 33"),
    "a logarithm": (
        _made(lambda s, x: s.plain(x) if math.log2(x.shape[2]) < 6 else x),
        "differs",
    ),
    "a remainder": (_made(lambda s, x: s.plain(x) if x.shape[2] % 12 != 11 else x), "differs"),
    "part of a long map": (
        _made(lambda s, x: x * (s.plain(x[:, :, :200]) / x[:, :, :200]).amax((2, 3), True)),
        "mentions 200",
    ),
    "a size too large to try": (
        _made(lambda s, x: s.plain(x) if x.shape[2] < s.rows else x, rows=10**8),
        "too large to be tried",
    ),
    "training, when large": (
        _made(lambda s, x: x if s.training and x.shape[2] > 40 else s.plain(x)),
        "mentions 40",
    ),
    "another type of result": (
        _made(lambda s, x: s.plain(x) if x.shape[3] < 100 else (x, x)),
        "is a tuple",
    ),
    "a memory format": (
        _made(lambda s, x: s.plain(x) if x.is_contiguous() else x),
        "output for channels_last differs",
    ),
    "a leaf": (
        _made(lambda s, x: s.plain(x) if x.is_leaf else x * 1),
        "output behind another layer differs",
    ),
    "a device": (
        _made(lambda s, x: x if x.device.type == "cuda" else s.plain(x)),
        "asks for the device (cuda)",
    ),
    "values": (
        _made(lambda s, x: s.plain(x) if x.abs().max() < 1e6 else x),
        "looks at the values",
    ),
    "large values": (_made(lambda s, x: s.plain(x.clamp(-99, 99)) + x * 0), "differs"),
    "NaN": (_made(lambda s, x: s.plain(x.nan_to_num()) * 1), "up to nan"),
    "the environment": (
        _made(lambda s, x: s.plain(x) if "no_gate" not in os.environ else x),
        "os.environ",
    ),
    "a clock": (_made(lambda s, x: s.plain(x) if time.time() > 0 else x), "time.time"),
    "chance": (_made(lambda s, x: s.plain(x) if random.random() < 1 else x), "random.random"),
    "torch's chance": (_made(_noisy), "draws random numbers"),
    "stochastic depth": (_made(_dropped), "in training differs"),
    "a mutable global": (
        _made(lambda s, x: s.plain(x) if CONFIGURATION["enabled"] else x),
        "CONFIGURATION (dict)",
    ),
    "a global that it sets": (_made(_sets_a_global), "sets WIDEST"),
    "a global list": (
        _made(lambda s, x: (STATISTICS.append(1.0), s.plain(x))[1]),
        "STATISTICS (list)",
    ),
    "a counter": (_made(_counts, calls=0), "sets calls"),
    "what it keeps": (_made(_keeps, last=None), "sets last"),
    "a list that it keeps": (_made(_appends, seen=[]), "changes its own attributes"),
    "a tensor that is no buffer": (
        _made(lambda s, x: s.plain(x) * s.factor, factor=torch.ones(())),
        "factor, of Tensor",
    ),
    "in place": (_made(_in_place), "changes its input in place"),
    "a message": (_made(lambda s, x: (print(end=""), s.plain(x))[1]), "calls print()"),
}


@pytest.mark.parametrize("case", SOMETIMES)
def test_a_block_that_is_one_on_most_maps_is_left_alone(case: str) -> None:
    make, reason = SOMETIMES[case]
    torch.manual_seed(0)
    model = nn.Sequential(make())
    cls = type(model[0])
    report = swap_squeeze_excite(model)
    assert not report.replaced, str(report)
    assert len(report.skipped) == 1, str(report)  # whatever its name is
    assert reason in report.skipped[0].reason, str(report)
    assert type(model[0]) is cls


class _TwoInputs(SEModule):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x) + y


class _Twice(SEModule):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(super().forward(x))


def _own_forward() -> nn.Module:
    block = SEModule()
    block.forward = MethodType(lambda self, x: x, block)  # type: ignore[method-assign]
    return block


def _hooked_pool() -> nn.Module:
    block = SqueezeExcitation()
    block.avgpool.register_forward_hook(lambda *_: None)
    return block


LEFT_ALONE: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "mean and maximum": (lambda: SEModule(add_maxpool=True), "mean and maximum"),
    "channels last": (SqueezeExciteCl, "does not take"),
    "dropout": (_WithDropout, "in training differs"),
    "own state_dict": (_WithState, "own state_dict"),
    "own parameter": (_WithParameter, "parameters besides those of its layers"),
    "own buffer": (_WithBuffer, "buffers of its own"),
    "a size": (_OnlyLarge, "mentions 64"),
    "own call": (_WithCall, "own __call__"),
    "a class that registers its subclasses": (_Registered, "own __init_subclass__"),
    "a metaclass": (_OfMetaclass, "is a _Meta"),
    "two inputs": (_TwoInputs, "does not take"),
    "used twice": (_Twice, "twice"),
    "patched forward": (_own_forward, "replaced on the instance"),
    "hooks on what is no longer called": (_hooked_pool, "avgpool has hooks"),
    "meta": (lambda: SEModule().to("meta"), "meta device"),
    "grouped": (lambda: _with(fc1=nn.Conv2d(CHANNELS, HIDDEN, 1, groups=2)), "1x1"),
    "wide": (lambda: _with(fc1=nn.Conv2d(CHANNELS, HIDDEN, 3, padding=1)), "1x1"),
    "lazy": (lambda: _with(fc1=nn.LazyConv2d(HIDDEN, 1)), "lazy"),
    "three layers": (lambda: _with(act=nn.Conv2d(HIDDEN, HIDDEN, 1)), "3 layers"),
    "script": (lambda: torch.jit.script(SEModule(gate=nn.Sigmoid)), "TorchScript"),
    "compiled": (lambda: _compiled(), "compiled by itself"),
    "not back to D": (lambda: _with(fc2=nn.Conv2d(HIDDEN, 1, 1)), "back to"),
    "dead": (lambda: _with(gate=nn.Threshold(1e9, 0.0)), "nothing can be verified"),
    "second": (lambda: _with(second=nn.Identity()), "attribute `second`"),
}


def _with(**children: nn.Module) -> nn.Module:
    block = SEModule()
    for name, child in children.items():
        setattr(block, name, child)
    return block


def _compiled() -> nn.Module:
    block = SEModule()
    block.compile(backend="eager")
    return block


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("case", LEFT_ALONE)
def test_what_is_not_certain_is_left_alone_and_said(case: str) -> None:
    make, reason = LEFT_ALONE[case]
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("se", make())
    cls, weights = type(model.se), dict(model.named_parameters())
    report = swap_squeeze_excite(model, second_order=True)
    assert not report.replaced, str(report)
    assert len(report.skipped) == 1, str(report)
    assert reason in report.skipped[0].reason, str(report)
    assert type(model.se) is cls
    assert dict(model.named_parameters()).keys() == weights.keys()
    assert not report.new_parameters


class _Mlp(nn.Module):
    """Two layers that lead from D back to D, and no attention."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.act = nn.Linear(CHANNELS, HIDDEN), nn.GELU()
        self.fc2 = nn.Linear(HIDDEN, CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class _Bottleneck(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.act = nn.Conv2d(CHANNELS, HIDDEN, 1), nn.ReLU()
        self.fc2, self.gate = nn.Conv2d(HIDDEN, CHANNELS, 1), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.fc2(self.act(self.fc1(x))))  # a gate for each position


def test_other_modules_are_not_even_mentioned() -> None:
    model = nn.ModuleList(
        [
            _Mlp(),
            _Bottleneck(),
            nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 1), nn.Sigmoid()),
            nn.MultiheadAttention(CHANNELS, 2),
            nn.LSTM(CHANNELS, CHANNELS),
            nn.TransformerEncoderLayer(CHANNELS, 2, 16),
        ]
    )
    report = swap_squeeze_excite(model, second_order=True)
    assert (report.replaced, report.skipped) == ([], [])
