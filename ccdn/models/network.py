"""CCDN: stacked hourglasses, two excited stages, cross-order fusion and a regressor."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ccdn.config.model import ModelConfig, check_model_config
from ccdn.models.excitation import CFF, Excitation
from ccdn.models.hourglass import Hourglass, Stem, block_maker, initialise, stage
from ccdn.models.integral import IntegralHead

# Of a point's expected error, as a share of the crop: at the start, and the least there is.
FIRST_SPREAD = 0.05
LEAST_SPREAD = 0.001


class Output(NamedTuple):
    """What the network says of a batch of crops.

    Args:
        landmarks: (B, L, 2), x then y, in [0, 1] of the crop.
        features: for COCS, the pooled excited maps (B, P, D) of the levels T, T-1, G, not
            normalised; empty for the Baseline, which has no excitation.
        intermediate: landmarks (B, L, 2) of each hourglass but the last, where those are supervised
            and while training; else empty.
        spread: (B, L), the mean absolute error of x and y that the network expects for each point,
        in [0, 1] of the crop; None if the configuration has no spread.
    """

    landmarks: Tensor
    features: tuple[Tensor, ...]
    intermediate: tuple[Tensor, ...] = ()
    spread: Tensor | None = None


class Maps(NamedTuple):
    """The maps behind an `Output`.

    Args:
        excited: what the regressor sees: X_G^p (B, P, D', 2H, 2W); of the Baseline the maps of T as
            (B, 1, D, H, W).
        pooled: its GAP (B, P, D'). features, intermediate: as in Output.
    """

    excited: Tensor
    pooled: Tensor
    features: tuple[Tensor, ...]
    intermediate: tuple[Tensor, ...]


class CCDN(nn.Module):
    """The paper's network; FCDN, P = 1..4 and the Baseline are other configurations of it.

    Takes crops (B, 3, S, S), float in [0, 1], S = config.input_size; returns `Output`. Raises
    ValueError for a configuration that does not fit together and for input of another shape.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        check_model_config(config)
        self.config = config
        self.points = config.points
        self.input_size = config.input_size
        fine, coarse = config.stage_channels
        make = block_maker(config.residual, config.blocks)
        self.stem = Stem(config.stem_channels, config.channels, config.stem_stride, make)
        self.stack = nn.Sequential(
            *(
                Hourglass(config.depth, config.channels, config.upsample, make)
                for _ in range(config.stacks)
            )
        )
        # T-1 is always 1/8 of the crop: a stem that halves once more leaves one halving less.
        self.stage_fine = stage(config.channels, fine, 3 - config.stem_stride, make)
        self.stage_coarse = stage(fine, coarse, 1, make)
        # A pre-activation block ends without a normalisation of its own. What is squeezed, excited
        # and pooled is normalised and rectified, as the post-activation blocks that CTM was made
        # for leave it: the regressor would otherwise see sums that grow with every block.
        normalised = config.stage_norm == "bn_relu"
        self.norm_coarse = nn.BatchNorm2d(coarse) if normalised else None
        self.cff: CFF | None = None
        if config.ctm:
            self.norm_fine = nn.BatchNorm2d(fine) if normalised else None
            self.ctm_fine = Excitation(fine, config)
            self.ctm_coarse = Excitation(coarse, config)
            self.cff = CFF(
                config.excitations,
                fine,
                coarse,
                config.fusion_weights == "shared",
                config.fusion_kernel,
                config.fusion_activation,
            )
        if config.init == "he":
            initialise(self)
        self._add_heads(config)

    def _add_heads(self, config: ModelConfig) -> None:
        """The regressors. Their weights begin at zero and the last one's bias, or the integral
        head's prior, at the mean shape: training begins there whatever the features are."""
        fine, coarse = config.stage_channels
        width = config.excitations * fine if config.ctm else coarse
        integral = config.head == "integral"
        self.head = nn.Linear(width, 2 * config.points, bias=not integral)
        self.head_integral = IntegralHead(width, config.points) if integral else None
        self.head_spread = nn.Linear(width, config.points) if config.spread else None
        heads = [self.head]
        self.head_fine: nn.Linear | None = None
        self.head_coarse: nn.Linear | None = None
        if config.ctm and config.head == "sum":
            self.head_fine = nn.Linear(config.excitations * fine, 2 * config.points)
            self.head_coarse = nn.Linear(config.excitations * coarse, 2 * config.points)
            heads += [self.head_fine, self.head_coarse]
        self.heads_stack = nn.ModuleList()
        if config.intermediate:
            self.norms_stack = nn.ModuleList(
                nn.BatchNorm2d(config.channels) for _ in range(config.stacks - 1)
            )
            self.heads_stack.extend(
                nn.Linear(config.channels, 2 * config.points) for _ in range(config.stacks - 1)
            )
        for head in (*heads, *self.heads_stack):
            for weight in head.parameters():
                nn.init.zeros_(weight)
        if self.head_spread is not None:
            nn.init.zeros_(self.head_spread.weight)
            nn.init.constant_(self.head_spread.bias, math.log(FIRST_SPREAD))
        self.set_mean_shape(torch.full((config.points, 2), 0.5))

    @torch.no_grad()
    def set_mean_shape(self, landmarks: Tensor) -> None:
        """Start the regression at a shape (L, 2) in [0, 1] of the crop: the training set's mean."""
        if landmarks.shape != (self.points, 2):
            raise ValueError(
                f"mean shape must be ({self.points}, 2), found {tuple(landmarks.shape)}"
            )
        for head in (self.head, *self.heads_stack):
            if head.bias is not None:
                head.bias.copy_(landmarks.reshape(-1))
        if self.head_integral is not None:
            side = self.input_size // (8 if self.config.ctm else 16)
            self.head_integral.set_mean_shape(landmarks, side, side)

    def forward(self, images: Tensor) -> Output:
        maps = self.maps(images)
        flat = _regress(self.head, maps.pooled.flatten(1))
        if self.head_integral is not None:
            flat = flat + _regress(self.head_integral, maps.excited).flatten(1)
        if self.head_fine is not None and self.head_coarse is not None:
            pooled_coarse, pooled_fine, _ = maps.features
            flat = flat + _regress(self.head_fine, pooled_fine.flatten(1))
            flat = flat + _regress(self.head_coarse, pooled_coarse.flatten(1))
        spread = None
        if self.head_spread is not None:
            logarithm = _regress(self.head_spread, maps.pooled.flatten(1))
            spread = logarithm.clamp(math.log(LEAST_SPREAD), 0.0).exp()
        return Output(self._points(flat), maps.features, maps.intermediate, spread)

    def maps(self, images: Tensor) -> Maps:
        """What the regressor pools of crops (B, 3, S, S), and the features with it."""
        size = self.input_size
        if images.dim() != 4 or images.shape[1:] != (3, size, size):
            raise ValueError(f"expected crops (B, 3, {size}, {size}), found {tuple(images.shape)}")
        x, intermediate = self._stacked(self.stem((images - 0.5) * 4.0))
        fine = self.stage_fine(x)
        if self.cff is None:
            coarse = _norm_relu(self.norm_coarse, self.stage_coarse(fine))
            return Maps(coarse.unsqueeze(1), coarse.mean((2, 3)).unsqueeze(1), (), intermediate)
        excited_fine, pooled_fine = self.ctm_fine(_norm_relu(self.norm_fine, fine))
        # Of the excited maps of T-1 it is their mean over p that T is computed from.
        source = excited_fine.mean(1) if self.config.stage_input == "excited" else fine
        coarse = _norm_relu(self.norm_coarse, self.stage_coarse(source))
        excited_coarse, pooled_coarse = self.ctm_coarse(coarse)
        fused = self.cff(excited_fine, excited_coarse)
        pooled = fused.mean((3, 4))
        return Maps(fused, pooled, (pooled_coarse, pooled_fine, pooled), intermediate)

    def _stacked(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The stack's output, and the landmarks after each hourglass but the last."""
        if not (self.training and len(self.heads_stack)):
            return self.stack(x), ()
        landmarks = []
        for hourglass, norm, head in zip(
            self.stack, self.norms_stack, self.heads_stack, strict=False
        ):
            x = hourglass(x)
            landmarks.append(self._points(_regress(head, F.relu(norm(x)).mean((2, 3)))))
        return self.stack[-1](x), tuple(landmarks)

    def _points(self, flat: Tensor) -> Tensor:
        return flat.view(-1, self.points, 2)


def _regress(head: nn.Module, features: Tensor) -> Tensor:
    """Coordinates of features. Outside autocast: the 8 bits of bfloat16 are half a pixel."""
    kind = features.device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):  # meta has no autocast
        return head(features)
    with torch.autocast(kind, enabled=False):
        return head(features.to(next(head.parameters()).dtype))


def _norm_relu(norm: nn.Module | None, x: Tensor) -> Tensor:
    return x if norm is None else F.relu(norm(x))


def build_model(config: ModelConfig) -> CCDN:
    """The network of a configuration, with fresh weights from torch's global generator.

    Raises ValueError for a configuration that does not fit, and for a network that is too large for
    the memory.
    """
    try:
        return CCDN(config)
    except (RuntimeError, OverflowError, MemoryError) as error:  # of torch's allocator
        raise ValueError(f"model: a network too large for the memory: {error}") from error
