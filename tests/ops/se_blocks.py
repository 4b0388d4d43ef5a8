"""Squeeze-and-excitation blocks in the forms in which networks have them, for tests of swapping."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS, HIDDEN = 8, 4


class SEModule(nn.Module):
    """The form of timm's: convolutions, perhaps a norm, any activation and gate."""

    def __init__(
        self,
        activation: Callable[[], nn.Module] = lambda: nn.ReLU(inplace=True),
        gate: Callable[[], nn.Module] = nn.Sigmoid,
        norm: Callable[[int], nn.Module] | None = None,
        bias: bool = True,
        add_maxpool: bool = False,
        channels: int = CHANNELS,
        hidden: int = HIDDEN,
    ) -> None:
        super().__init__()
        self.add_maxpool = add_maxpool
        self.fc1 = nn.Conv2d(channels, hidden, 1, bias=bias)
        self.bn = nn.Identity() if norm is None else norm(hidden)
        self.act = activation()
        self.fc2 = nn.Conv2d(hidden, channels, 1, bias=bias)
        self.gate = gate()

    def forward(self, x: Tensor) -> Tensor:
        squeezed = x.mean((2, 3), keepdim=True)
        if self.add_maxpool:
            squeezed = (squeezed + x.amax((2, 3), keepdim=True)) / 2
        return x * self.gate(self.fc2(self.act(self.bn(self.fc1(squeezed)))))


class SqueezeExcitation(nn.Module):
    """The form of torchvision's: registered in another order than used."""

    def __init__(
        self,
        activation: Callable[[], nn.Module] = nn.ReLU,
        scale_activation: Callable[[], nn.Module] = nn.Hardsigmoid,
    ) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(CHANNELS, HIDDEN, 1)
        self.fc2 = nn.Conv2d(HIDDEN, CHANNELS, 1)
        self.activation = activation()
        self.scale_activation = scale_activation()

    def _scale(self, x: Tensor) -> Tensor:
        return self.scale_activation(self.fc2(self.activation(self.fc1(self.avgpool(x)))))

    def forward(self, x: Tensor) -> Tensor:
        return self._scale(x) * x


class SELayer(nn.Module):
    """Linear layers without biases in a Sequential."""

    def __init__(self) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(CHANNELS, HIDDEN, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(HIDDEN, CHANNELS, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        b, c, _, _ = x.shape
        return x * self.fc(self.avg_pool(x).view(b, c)).view(b, c, 1, 1).expand_as(x)


class FunctionalSE(nn.Module):
    """Activation and gate as functions."""

    def __init__(
        self,
        activation: Callable[[Tensor], Tensor] = F.relu,
        gate: Callable[[Tensor], Tensor] = torch.sigmoid,
    ) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(CHANNELS, HIDDEN, 1)
        self.expand = nn.Conv2d(HIDDEN, CHANNELS, 1)
        self.functions = activation, gate

    def forward(self, x: Tensor) -> Tensor:
        activation, gate = self.functions
        return x * gate(self.expand(activation(self.reduce(F.adaptive_avg_pool2d(x, 1)))))


class EffectiveSE(nn.Module):
    """One layer."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.fc(x.mean((2, 3), keepdim=True)))


class SqueezeExciteCl(nn.Module):
    """Channels in the last dimension, which is left alone."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(CHANNELS, HIDDEN)
        self.act = nn.ReLU()
        self.fc2 = nn.Linear(HIDDEN, CHANNELS)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.fc2(self.act(self.fc1(x.mean((1, 2), keepdim=True)))))


BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "timm": SEModule,
    "timm, SiLU": lambda: SEModule(activation=lambda: nn.SiLU(inplace=True)),
    "timm, batch norm": lambda: SEModule(norm=nn.BatchNorm2d),
    "timm, layer norm": lambda: SEModule(norm=lambda hidden: nn.GroupNorm(1, hidden)),
    "timm, hard sigmoid": lambda: SEModule(gate=nn.Hardsigmoid),
    "timm, tanh": lambda: SEModule(gate=nn.Tanh),
    "timm, no bias": lambda: SEModule(bias=False),
    "timm, one unit": lambda: SEModule(hidden=1),
    "torchvision, mobilenet": SqueezeExcitation,
    "torchvision, efficientnet": lambda: SqueezeExcitation(nn.SiLU, nn.Sigmoid),
    "linear": SELayer,
    "functional": FunctionalSE,
    "functional, mobilenet": lambda: FunctionalSE(F.relu, F.hardsigmoid),
    "functional, SiLU": lambda: FunctionalSE(F.silu),
    "effective": EffectiveSE,
}


class Residual(nn.Module):
    """A block of a network that squeezes and excites, in place where networks are."""

    def __init__(self, se: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(CHANNELS)
        self.se = se
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.se(self.bn(self.conv(x)))
        out += x
        return self.relu(out)


def network(*blocks: nn.Module) -> nn.Sequential:
    """Three input channels, a residual block for each SE block, ten classes."""
    return nn.Sequential(
        nn.Conv2d(3, CHANNELS, 3, padding=1),
        *(Residual(block) for block in blocks),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(CHANNELS, 10),
    )
