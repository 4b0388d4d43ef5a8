"""What swap_squeeze_excite leaves as it is, and why: all that is not certain to be such a block."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
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
    "own parameter": (_WithParameter, "parameters of its own"),
    "own buffer": (_WithBuffer, "buffers of its own"),
    "a size": (_OnlyLarge, "mentions 64"),
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
