"""Four networks in their papers' form, for bench_networks.py.

The widths are the papers'; the depth is cut, so that a training step takes seconds on a CPU. The
second-order layers are those of the tests (tests/ops/published.py): an N x N centring matrix and
autograd Functions with the iteration's backward pass by hand, as the published code has them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "ops"))

import published
from published import MPNCOV, SOCA, CovpoolLayer


class ResidualGroup(nn.Module):
    """SAN's local-source residual attention group: residual blocks, a convolution, attention."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1),
                nn.ReLU(inplace=True),
                nn.Conv2d(width, width, 3, padding=1),
            )
            for _ in range(blocks)
        )
        self.soca = SOCA(width)
        self.last = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for block in self.blocks:
            y = y + block(y)
        return x + self.last(self.soca(y))


class SAN(nn.Module):
    """Super-resolution by 2: 2 groups of 2 blocks (the paper: 20 of 10, and non-local modules)."""

    def __init__(self, width: int = 64, groups: int = 2, blocks: int = 2) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.groups = nn.ModuleList(ResidualGroup(width, blocks) for _ in range(groups))
        self.gamma = nn.Parameter(torch.full((1,), 0.1))  # the paper starts from zero
        self.tail = nn.Sequential(
            nn.Conv2d(width, 4 * width, 3, padding=1),
            nn.PixelShuffle(2),
            nn.Conv2d(width, 3, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = y = self.head(x)
        for group in self.groups:
            y = group(y) + self.gamma * x
        return self.tail(y)


class SELayer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(width, width // 16),
            nn.ReLU(inplace=True),
            nn.Linear(width // 16, width),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, width = x.shape[:2]
        return x * self.fc(x.mean((2, 3))).view(batch, width, 1, 1)


class GSoPLayer(nn.Module):
    """Channel attention of GSoP-Net: a covariance whose rows are convolved, each by itself."""

    def __init__(self, width: int, reduced: int = 128) -> None:
        super().__init__()
        self.reduce = nn.Sequential(
            nn.ReLU(), nn.Conv2d(width, reduced, 1), nn.BatchNorm2d(reduced), nn.ReLU()
        )
        self.row_bn = nn.BatchNorm2d(reduced)
        self.row_conv = nn.Conv2d(reduced, 4 * reduced, (reduced, 1), groups=reduced)
        self.expand = nn.Conv2d(4 * reduced, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        covariance = CovpoolLayer(self.reduce(x))
        rows = covariance.view(*covariance.shape, 1).contiguous()
        return x * torch.sigmoid(self.expand(self.row_conv(self.row_bn(rows))))


class Bottleneck(nn.Module):
    """ResNet-50's block, with channel attention or without."""

    def __init__(
        self, inputs: int, width: int, stride: int, attention: type[nn.Module] | None
    ) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.attention = attention(4 * width) if attention else nn.Identity()
        self.downsample: nn.Module = nn.Identity()
        if (inputs, stride) != (4 * width, 1):
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y)).relu()
        y = self.attention(self.bn3(self.conv3(y)))
        return (y + self.downsample(x)).relu()


def stage(
    inputs: int, width: int, blocks: int, stride: int, attention: type[nn.Module] | None = None
) -> nn.Sequential:
    first = Bottleneck(inputs, width, stride, attention)
    others = (Bottleneck(4 * width, width, 1, attention) for _ in range(blocks - 1))
    return nn.Sequential(first, *others)


class ISqrtCovResNet(nn.Module):
    """ResNet-50's last stage, not strided, and iSQRT-COV's head, written out in the forward."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.layer4 = stage(1024, 512, 1, 1)
        self.layer_reduce = nn.Conv2d(2048, 256, 1, bias=False)
        self.layer_reduce_bn = nn.BatchNorm2d(256)
        self.fc = nn.Linear(256 * 257 // 2, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer4(x)
        x = self.layer_reduce_bn(self.layer_reduce(x)).relu()
        x = published.CovpoolLayer(x)
        x = published.SqrtmLayer(x, 5)
        x = published.TriuvecLayer(x)
        return self.fc(x.view(x.size(0), -1))


class SEResNet(nn.Sequential):
    """SE-ResNet-50's last stage and an MPNCOV head."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__(
            stage(1024, 512, 2, 2, SELayer),
            MPNCOV(5, input_dim=2048, dimension_reduction=256),
            nn.Flatten(),
            nn.Linear(256 * 257 // 2, classes),
        )


class GSoPNet(nn.Sequential):
    """The second stage of GSoP-Net1-50, with attention in each of its blocks."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__(
            stage(256, 128, 2, 2, GSoPLayer),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(512, classes),
        )
