"""CCDN: stacked hourglasses, two excited stages, cross-order fusion and a linear regressor."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ccdn_ops.nn import CTM

from .hourglass import UPSAMPLING, Hourglass, Stem, initialise, stage

if TYPE_CHECKING:
    from ccdn.config import ModelConfig

HEADS = ("fused", "sum")


class Output(NamedTuple):
    """What the network says of a batch of crops.

    landmarks: (B, L, 2), x then y, in [0, 1] of the crop.
    features: for COCS, the pooled excited maps (B, P, D) of the levels T, T-1, G, not normalised;
        empty for the Baseline, which has no excitation.
    """

    landmarks: Tensor
    features: tuple[Tensor, ...]


class CFF(nn.Module):
    """Cross-order feature fusion, eq. 7, for all P excitations at once.

    X_G^p = BN(K2 * (X_{T-1}^p + Deconv(K1 * X_T^p))), with kernels of their own for each p: the
    excitations lie side by side in the channels and every convolution is grouped by p.
    """

    def __init__(self, excitations: int, fine: int, coarse: int) -> None:
        super().__init__()
        wide = excitations * fine
        self.reduce = nn.Conv2d(excitations * coarse, wide, 1, groups=excitations)
        self.resize = nn.ConvTranspose2d(wide, wide, 4, stride=2, padding=1, groups=excitations)
        self.smooth = nn.Conv2d(wide, wide, 3, padding=1, groups=excitations, bias=False)
        self.norm = nn.BatchNorm2d(wide)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """(B, P, D', 2H, 2W) and (B, P, D, H, W) to (B, P, D', 2H, 2W)."""
        shape = fine.shape
        up = self.resize(self.reduce(coarse.flatten(1, 2)))
        return self.norm(self.smooth(fine.flatten(1, 2) + up)).view(shape)


class CCDN(nn.Module):
    """The paper's network; FCDN, P = 1..4 and the Baseline are other configurations of it.

    Takes crops (B, 3, S, S), float in [0, 1], S = config.input_size; returns `Output`. Raises
    ValueError for a configuration that does not fit together and for input of another shape.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        check(config)
        fine, coarse = config.stage_channels
        self.points = config.points
        self.input_size = config.input_size
        self.head_kind = config.head
        self.stem = Stem(config.stem_channels, config.channels, config.stem_stride)
        self.stack = nn.Sequential(
            *(
                Hourglass(config.depth, config.channels, config.upsample)
                for _ in range(config.stacks)
            )
        )
        # T-1 is always 1/8 of the crop: a stem that halves once more leaves one halving less.
        self.stage_fine = stage(config.channels, fine, halvings=3 - config.stem_stride)
        self.stage_coarse = stage(fine, coarse, halvings=1)
        # A pre-activation block ends without a normalisation of its own. What is squeezed, excited
        # and pooled is normalised and rectified, as the post-activation blocks that CTM was made
        # for leave it: the regressor would otherwise see sums that grow with every block.
        self.norm_coarse = nn.BatchNorm2d(coarse)
        self.cff: CFF | None = None
        if config.ctm:
            self.norm_fine = nn.BatchNorm2d(fine)
            settings = (config.excitations, config.orders, config.reduction, config.iterations)
            self.ctm_fine = CTM(fine, *settings)
            self.ctm_coarse = CTM(coarse, *settings)
            self.cff = CFF(config.excitations, fine, coarse)
            self.head = nn.Linear(config.excitations * fine, 2 * config.points)
            if config.head == "sum":
                self.head_fine = nn.Linear(config.excitations * fine, 2 * config.points)
                self.head_coarse = nn.Linear(config.excitations * coarse, 2 * config.points)
        else:
            self.head = nn.Linear(coarse, 2 * config.points)
        initialise(self)
        for name in ("head", "head_fine", "head_coarse"):
            if hasattr(self, name):
                # The regression starts at the mean shape, whatever the features are.
                nn.init.zeros_(getattr(self, name).weight)
                nn.init.zeros_(getattr(self, name).bias)
        self.set_mean_shape(torch.full((config.points, 2), 0.5))

    @torch.no_grad()
    def set_mean_shape(self, landmarks: Tensor) -> None:
        """Start the regression at a shape (L, 2) in [0, 1] of the crop: the training set's mean."""
        if landmarks.shape != (self.points, 2):
            raise ValueError(
                f"mean shape must be ({self.points}, 2), found {tuple(landmarks.shape)}"
            )
        self.head.bias.copy_(landmarks.reshape(-1))

    def forward(self, images: Tensor) -> Output:
        size = self.input_size
        if images.dim() != 4 or images.shape[1:] != (3, size, size):
            raise ValueError(f"expected crops (B, 3, {size}, {size}), found {tuple(images.shape)}")
        x = self.stack(self.stem((images - 0.5) * 4.0))
        fine = self.stage_fine(x)
        coarse = self.stage_coarse(fine)
        coarse = F.relu(self.norm_coarse(coarse))
        if self.cff is None:
            return Output(self._points(self.head(coarse.mean((2, 3)))), ())
        excited_coarse, pooled_coarse = self.ctm_coarse(coarse)
        excited_fine, pooled_fine = self.ctm_fine(F.relu(self.norm_fine(fine)))
        pooled = self.cff(excited_fine, excited_coarse).mean((3, 4))
        out = self.head(pooled.flatten(1))
        if self.head_kind == "sum":
            out = out + self.head_fine(pooled_fine.flatten(1))
            out = out + self.head_coarse(pooled_coarse.flatten(1))
        return Output(self._points(out), (pooled_coarse, pooled_fine, pooled))

    def _points(self, flat: Tensor) -> Tensor:
        return flat.view(-1, self.points, 2)


def check(config: ModelConfig) -> None:
    """Raise ValueError, naming the field, its value and what fits, if a configuration does not."""
    if config.stem_stride not in (1, 2):
        raise ValueError(f"model.stem_stride must be 1 or 2, found {config.stem_stride}")
    if config.head not in HEADS:
        raise ValueError(f"model.head must be one of {HEADS}, found {config.head!r}")
    if config.upsample not in UPSAMPLING:
        raise ValueError(f"model.upsample must be one of {UPSAMPLING}, found {config.upsample!r}")
    if config.orders not in (1, 2):
        raise ValueError(f"model.orders must be 1 (FCDN) or 2 (CCDN), found {config.orders}")
    if len(config.stage_channels) != 2:
        raise ValueError(
            "model.stage_channels must be the widths of T-1 and T, found "
            f"{list(config.stage_channels)}"
        )
    step = max(2 * config.stem_stride * 2**config.depth, 16)
    if config.input_size < step or config.input_size % step:
        raise ValueError(
            f"model.input_size must be a multiple of {step} for stem_stride {config.stem_stride} "
            f"and depth {config.depth}, found {config.input_size}"
        )
    if not 1 <= config.iterations <= 10:
        raise ValueError(f"model.iterations must be from 1 to 10, found {config.iterations}")
    if min(config.stage_channels) < 1:
        raise ValueError(
            f"model.stage_channels must be at least 1, found {list(config.stage_channels)}"
        )
    for name in (
        "points",
        "stem_channels",
        "channels",
        "stacks",
        "depth",
        "excitations",
        "reduction",
    ):
        if getattr(config, name) < 1:
            raise ValueError(f"model.{name} must be at least 1, found {getattr(config, name)}")


def build_model(config: ModelConfig) -> CCDN:
    """The network of a configuration, with fresh weights from torch's global generator."""
    return CCDN(config)
