"""The network's configuration: every choice that the paper leaves open is a field here.

docs/models.md gives the reason for each default. Baseline, FCDN and CCDN are values of these
fields.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class ModelConfig:
    """The network: sizes of the stem, the stack, the two stages and the second-order head."""

    points: int = 68  # landmarks
    input_size: int = 128  # side of the square crop in pixels
    stem_stride: int = 1  # 1 as in the paper's sibling code, 2 for a quarter of the cost
    stem_channels: int = 64
    residual: str = "preactivation"  # preactivation | postactivation
    blocks: int = 1  # residual blocks a stage
    stacks: int = 4  # hourglasses in series
    depth: int = 4  # times an hourglass halves its map
    channels: int = 256  # width of the hourglasses
    upsample: str = "nearest"  # nearest | deconv
    intermediate: bool = False  # True: each hourglass but the last is supervised too
    stage_channels: list[int] = field(default_factory=lambda: [256, 512])  # stages T-1, T
    stage_norm: str = "bn_relu"  # bn_relu | none: of what is squeezed, excited and pooled
    stage_input: str = "raw"  # raw | excited: the map of T-1 that T is computed from
    ctm: bool = True  # False = Baseline
    excitations: int = 4  # P
    orders: int = 2  # 2 = CCDN, 1 = FCDN
    reduction: int = 4  # of the excitation gates
    gate_weights: str = "own"  # own | shared: W_V and W_U of the orders of one excitation
    gate_bias: bool = True
    squeeze_norm: str = "none"  # none | layer: over the channels of a face, before W_V
    iterations: int = 5  # Newton-Schulz iterations, K
    covariance: str = "centred"  # centred | uncentred
    covariance_divisor: str = "n"  # n | n-1, n the number of positions
    fusion_weights: str = "own"  # own | shared: K1, deconvolution, K2 and BN of the excitations
    fusion_kernel: int = 4  # of the deconvolution: 4 (padding 1) | 2 (padding 0)
    fusion_activation: str = "none"  # none | relu
    # fused: linear on the pooled fused maps | sum: linear heads on T and T-1 too
    # integral: the mean position under a map for each point, plus the linear head
    head: str = "fused"
    spread: bool = False  # True: an expected error for each point, learned by loss kind laplace
    init: str = "he"  # he | torch: weights of the convolutions


MODEL_CHOICES: dict[str, tuple[Any, ...]] = {
    "stem_stride": (1, 2),
    "residual": ("preactivation", "postactivation"),
    "upsample": ("nearest", "deconv"),
    "stage_norm": ("bn_relu", "none"),
    "stage_input": ("raw", "excited"),
    "orders": (1, 2),
    "gate_weights": ("own", "shared"),
    "squeeze_norm": ("none", "layer"),
    "covariance": ("centred", "uncentred"),
    "covariance_divisor": ("n", "n-1"),
    "fusion_weights": ("own", "shared"),
    "fusion_kernel": (2, 4),
    "fusion_activation": ("none", "relu"),
    "head": ("fused", "sum", "integral"),
    "init": ("he", "torch"),
}
_AT_LEAST_ONE = (
    "points",
    "stem_channels",
    "blocks",
    "stacks",
    "depth",
    "channels",
    "excitations",
    "reduction",
)


def check_model_config(config: ModelConfig) -> None:
    """Raise ValueError for a bad value, naming the field and what was expected and found."""
    for name, allowed in MODEL_CHOICES.items():
        found = getattr(config, name)
        if found not in allowed:
            listed = ", ".join(map(str, allowed))
            raise ValueError(f"model.{name}: expected one of {listed}; found {found!r}")
    for name in _AT_LEAST_ONE:
        found = getattr(config, name)
        if found < 1:
            raise ValueError(f"model.{name}: expected at least 1, found {found}")
    if not 1 <= config.iterations <= 10:
        raise ValueError(f"model.iterations: expected 1 to 10, found {config.iterations}")
    if config.depth > 30:  # 2 to the power of it divides the size of the crop
        raise ValueError(f"model.depth: expected 1 to 30, found {config.depth}")
    widths = list(config.stage_channels)
    if len(widths) != 2 or min(widths) < 1:
        raise ValueError(
            f"model.stage_channels: expected 2 values, the widths of T-1 and T, found {widths}"
        )
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
