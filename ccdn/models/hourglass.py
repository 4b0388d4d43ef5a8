"""The feature extractor before the excitation: stem, residual blocks and stacked hourglasses."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

UPSAMPLING = ("nearest", "deconv")


class Residual(nn.Module):
    """Pre-activation bottleneck: BN-ReLU-1x1, BN-ReLU-3x3, BN-ReLU-1x1 added to the input.

    (B, in_channels, H, W) -> (B, out_channels, H / stride, W / stride). The two inner convolutions
    have half the output width (Newell et al. 2016); a 1x1 convolution carries the skip where shapes
    differ.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        inner = max(out_channels // 2, 1)
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, out_channels, 1)
        self.skip: nn.Module
        if in_channels == out_channels and stride == 1:
            self.skip = nn.Identity()
        else:
            self.skip = nn.Conv2d(in_channels, out_channels, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.norm1(x), inplace=True))
        y = self.conv2(F.relu(self.norm2(y), inplace=True))
        y = self.conv3(F.relu(self.norm3(y), inplace=True))
        return y + self.skip(x)


class Hourglass(nn.Module):
    """One hourglass of `depth` halvings, one residual block a stage; keeps the shape (B, C, H, W).

    H and W must be divisible by 2 ** depth.
    """

    def __init__(self, depth: int, channels: int, upsample: str = "nearest") -> None:
        super().__init__()
        self.across = Residual(channels, channels)
        self.down = Residual(channels, channels)
        self.inner: nn.Module
        if depth > 1:
            self.inner = Hourglass(depth - 1, channels, upsample)
        else:
            self.inner = Residual(channels, channels)
        self.up = Residual(channels, channels)
        self.resize: nn.Module
        if upsample == "nearest":
            self.resize = nn.Upsample(scale_factor=2, mode="nearest")
        elif upsample == "deconv":
            self.resize = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1)
        else:
            raise ValueError(f"upsample must be one of {UPSAMPLING}, found {upsample!r}")

    def forward(self, x: Tensor) -> Tensor:
        low = self.up(self.inner(self.down(F.max_pool2d(x, 2))))
        return self.across(x) + self.resize(low)


class Stem(nn.Module):
    """RGB crop (B, 3, S, S) to (B, channels, S / (2 stem_stride), S / (2 stem_stride))."""

    def __init__(self, stem_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, stem_channels, 3, stride=stride, padding=1)
        self.block1 = Residual(stem_channels, 2 * stem_channels)
        self.block2 = Residual(2 * stem_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.block1(self.conv(x)), 2)
        return self.block2(x)


def stage(in_channels: int, out_channels: int, halvings: int) -> nn.Sequential:
    """`halvings` residual blocks of stride 2, the first of which takes the new width."""
    widths = [in_channels] + [out_channels] * halvings
    blocks = [Residual(a, b, stride=2) for a, b in pairwise(widths)]
    return nn.Sequential(*blocks)


def initialise(module: nn.Module) -> None:
    """He initialisation of every convolution, for the ReLUs that follow the normalisations."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
