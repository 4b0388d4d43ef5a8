"""The network's configuration: every choice that the paper leaves open is a field here.

docs/models.md gives the reason for each default. Baseline, FCDN and CCDN are values of these
fields.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from ccdn.runtime.validation import Count, Integer, WholeNumber, check

Widths = Annotated[
    list[Count], Field(min_length=2, max_length=2, description="the widths of T-1 and T")
]


@dataclass
class ModelConfig:
    """The network: sizes of the stem, the stack, the two stages and the second-order head."""

    points: Count = 68  # landmarks
    input_size: Integer = 128  # side of the square crop in pixels
    # 1 as in the paper's sibling code, 2 for a quarter of the cost
    stem_stride: Annotated[Literal[1, 2], WholeNumber] = 1
    stem_channels: Count = 64
    residual: Literal["preactivation", "postactivation"] = "preactivation"
    blocks: Count = 1  # residual blocks a stage
    stacks: Count = 4  # hourglasses in series
    # times an hourglass halves its map: 2 to the power of it divides the size of the crop
    depth: Annotated[Integer, Field(ge=1, le=30)] = 4
    channels: Count = 256  # width of the hourglasses
    upsample: Literal["nearest", "deconv"] = "nearest"
    intermediate: bool = False  # True: each hourglass but the last is supervised too
    stage_channels: Widths = field(default_factory=lambda: [256, 512])  # stages T-1, T
    stage_norm: Literal["bn_relu", "none"] = "bn_relu"  # of what is squeezed, excited and pooled
    stage_input: Literal["raw", "excited"] = "raw"  # the map of T-1 that T is computed from
    ctm: bool = True  # False = Baseline
    excitations: Count = 4  # P
    orders: Annotated[Literal[1, 2], WholeNumber] = 2  # 2 = CCDN, 1 = FCDN
    reduction: Count = 4  # of the excitation gates
    gate_weights: Literal["own", "shared"] = "own"  # W_V and W_U of the orders of one excitation
    gate_bias: bool = True
    squeeze_norm: Literal["none", "layer"] = "none"  # over the channels of a face, before W_V
    iterations: Annotated[Integer, Field(ge=1, le=10)] = 5  # Newton-Schulz iterations, K
    covariance: Literal["centred", "uncentred"] = "centred"
    covariance_divisor: Literal["n", "n-1"] = "n"  # n the number of positions
    # K1, deconvolution, K2 and BN of the excitations
    fusion_weights: Literal["own", "shared"] = "own"
    # of the deconvolution: 4 (padding 1) | 2 (padding 0)
    fusion_kernel: Annotated[Literal[2, 4], WholeNumber] = 4
    fusion_activation: Literal["none", "relu"] = "none"
    # fused: linear on the pooled fused maps | sum: linear heads on T and T-1 too
    # integral: the mean position under a map for each point, plus the linear head
    head: Literal["fused", "sum", "integral"] = "fused"
    spread: bool = False  # True: an expected error for each point, learned by loss kind laplace
    init: Literal["he", "torch"] = "he"  # weights of the convolutions


def check_model_config(config: ModelConfig) -> None:
    """Raise ValueError for a bad value, naming the field and what was expected and found."""
    check(config, "model")
    step = max(2 * config.stem_stride * 2**config.depth, 16)
    if config.input_size < step or config.input_size % step:
        raise ValueError(
            f"model.input_size: expected a multiple of {step} for stem_stride {config.stem_stride}"
            f" and depth {config.depth}, found {config.input_size}"
        )
    if config.spread and config.intermediate:
        raise ValueError("model.spread: the landmarks of model.intermediate have none; one of both")
    if config.stage_input == "excited" and not config.ctm:
        raise ValueError("model.stage_input: excited needs an excitation, but model.ctm is false")
