"""The feature extractor before the excitation: stem, residual blocks and stacked hourglasses."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

# Makes a residual block, or several in a row, from its input's to its output's width; the first
# one takes the stride.
MakeBlock = Callable[..., nn.Module]


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
        self.skip = _skip(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.norm1(x), inplace=True))
        y = self.conv2(F.relu(self.norm2(y), inplace=True))
        y = self.conv3(F.relu(self.norm3(y), inplace=True))
        return y + self.skip(x)


class PostActivation(nn.Module):
    """Bottleneck as He et al. 2016 first had it: 1x1-BN-ReLU, 3x3-BN-ReLU, 1x1-BN, added, ReLU.

    Shapes and widths are those of `Residual`.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        inner = max(out_channels // 2, 1)
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, out_channels, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(out_channels)
        self.skip = _skip(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = F.relu(self.norm2(self.conv2(y)), inplace=True)
        return F.relu(self.norm3(self.conv3(y)) + self.skip(x), inplace=True)


def _skip(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if in_channels == out_channels and stride == 1:
        return nn.Identity()
    return nn.Conv2d(in_channels, out_channels, 1, stride=stride)


BLOCKS: dict[str, Callable[..., nn.Module]] = {
    "preactivation": Residual,
    "postactivation": PostActivation,
}


def block_maker(kind: str = "preactivation", count: int = 1) -> MakeBlock:
    """A function (in_channels, out_channels, stride=1) -> `count` residual blocks of a kind."""
    block = BLOCKS[kind]

    def make(in_channels: int, out_channels: int, stride: int = 1) -> nn.Module:
        first = block(in_channels, out_channels, stride)
        if count == 1:
            return first
        return nn.Sequential(first, *(block(out_channels, out_channels) for _ in range(count - 1)))

    return make


class Hourglass(nn.Module):
    """One hourglass of `depth` halvings, residual blocks at each stage; keeps the shape
    (B, C, H, W).

    H and W must be divisible by 2 ** depth. upsample: nearest | deconv (4 x 4, stride 2).
    """

    def __init__(
        self,
        depth: int,
        channels: int,
        upsample: str = "nearest",
        make: MakeBlock = Residual,
    ) -> None:
        super().__init__()
        self.across = make(channels, channels)
        self.down = make(channels, channels)
        self.inner: nn.Module
        if depth > 1:
            self.inner = Hourglass(depth - 1, channels, upsample, make)
        else:
            self.inner = make(channels, channels)
        self.up = make(channels, channels)
        self.resize: nn.Module
        if upsample == "nearest":
            self.resize = nn.Upsample(scale_factor=2, mode="nearest")
        elif upsample == "deconv":
            self.resize = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1)
        else:
            raise ValueError(f"upsample: expected one of nearest, deconv; found {upsample!r}")

    def forward(self, x: Tensor) -> Tensor:
        low = self.up(self.inner(self.down(F.max_pool2d(x, 2))))
        return self.across(x) + self.resize(low)


class Stem(nn.Module):
    """RGB crop (B, 3, S, S) to (B, channels, S / (2 stride), S / (2 stride))."""

    def __init__(
        self, stem_channels: int, channels: int, stride: int, make: MakeBlock = Residual
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, stem_channels, 3, stride=stride, padding=1)
        self.block1 = make(stem_channels, 2 * stem_channels)
        self.block2 = make(2 * stem_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.block1(self.conv(x)), 2)
        return self.block2(x)


def stage(
    in_channels: int, out_channels: int, halvings: int, make: MakeBlock = Residual
) -> nn.Sequential:
    """`halvings` residual stages of stride 2, the first of which takes the new width."""
    widths = [in_channels] + [out_channels] * halvings
    return nn.Sequential(*(make(a, b, stride=2) for a, b in pairwise(widths)))


def initialise(module: nn.Module) -> None:
    """He initialisation of every convolution: normal, variance 2 / fan-in, biases 0.

    fan-in is torch's: in-channels of a group times the kernel's area, and out-channels for a
    transposed convolution. Batch normalisations keep torch's scale 1 and shift 0.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
