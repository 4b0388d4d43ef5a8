"""How a network is optimised: the `train` section of a configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from ccdn.runtime.validation import (
    Count,
    Integer,
    Natural,
    NotNegative,
    Number,
    Positive,
    Share,
    Text,
)

Betas = Annotated[list[Share], Field(min_length=2, max_length=2)]


@dataclass
class CocsConfig:
    """Weights of the COCS terms at stage T, stage T-1 and the fused maps (eq. 9)."""

    t: NotNegative = 0.025
    t1: NotNegative = 0.01
    g: NotNegative = 0.05

    def gammas(self) -> tuple[float, float, float]:
        """The weights in the order of the model's features: T, T-1, G."""
        return (self.t, self.t1, self.g)


@dataclass
class LossConfig:
    """How the landmarks' error of eq. 9 is measured and summed.

    kind l2 is the paper's squared error; smooth_l1 (Girshick, 2015) and wing (Feng et al., 2018)
    are sums over x and y, their widths pixels of the crop whatever the unit of the error is;
    laplace is the negative log-likelihood of x and y, `abs(error) / spread + log(spread)` and a
    constant: the spread is what the network expects of the point (model.spread). It has no unit.
    With pixels the terms of COCS vanish next to the landmarks' (gamma was chosen by the paper
    without saying the unit).
    """

    kind: Literal["l2", "smooth_l1", "wing", "laplace"] = "l2"
    smooth_width: Positive = 1.0  # smooth_l1: pixels below which it is quadratic
    wing_width: Positive = 10.0  # wing: pixels below which it is logarithmic
    wing_curvature: Positive = 2.0  # wing: epsilon, pixels
    coordinates: Literal["unit", "pixels"] = "unit"  # of the crop; unit: [0, 1]
    over_points: Literal["sum", "mean"] = "sum"
    over_batch: Literal["mean", "sum"] = "mean"  # sum: as eq. 9 prints it


@dataclass
class TrainConfig:
    """The optimisation; the defaults are the paper's where it speaks."""

    epochs: Count = 150
    batch_size: Count = 16  # images of an optimiser step; see batch_scope
    # the batch is global: over all processes | process: of each of them
    batch_scope: Literal["global", "process"] = "global"
    accumulate: Count = 1  # parts of the batch, one after the other; COCS is that of each part
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: NotNegative = 2.5e-4
    # in the processes where batch_scope is process
    lr_scaling: Literal["none", "sqrt", "linear"] = "none"
    betas: Betas = field(default_factory=lambda: [0.5, 0.999])
    momentum: Share = 0.9  # of sgd
    weight_decay: NotNegative = 0.0
    schedule: Literal["step", "cosine", "flat_cosine", "onecycle", "constant"] = "step"
    milestones: list[Integer] = field(default_factory=lambda: [40, 100])  # epochs, of step
    gamma: Number = 0.5  # factor at each milestone
    warmup: NotNegative = 0.0  # epochs of linear warm-up (onecycle: where the peak lies)
    flat: Share = 0.5  # share of the steps before flat_cosine begins to fall
    final_lr: NotNegative = 0.01  # last rate of the cosines and onecycle, as a share of lr
    clip: NotNegative = 0.0  # largest gradient norm; 0: not clipped
    loss: LossConfig = field(default_factory=LossConfig)
    cocs: CocsConfig = field(default_factory=CocsConfig)
    # global: Q over all processes' samples | local: over each one's
    cocs_scope: Literal["global", "local"] = "global"
    # auto: sync with several GPUs, else local
    batch_norm: Literal["auto", "local", "sync", "frozen"] = "auto"
    ema: Share = 0.0  # decay of averaged weights; 0: off
    selection: Literal["last", "holdout"] = "last"
    # the weights to start from: a file of ccdn train or ccdn export | bundled; empty: random ones
    init: Text = ""
    seed: Annotated[Natural, Field(lt=2**63)] = 0
    # processes that prepare batches, for each one that trains; 0: a thread of it
    workers: Natural = 0
    threads: Natural = 0  # torch threads; 0: as torch finds
    # bf16 and fp16 by autocast; fp16 scales the loss
    precision: Literal["fp32", "bf16", "fp16", "fp64"] = "fp32"
    channels_last: bool = False
    # torch.compile with this backend
    compile: Literal["none", "inductor", "aot_eager"] = "none"
    deterministic: bool = False  # only operators that give the same bits again, or an error
    device: Text = "auto"  # auto | cpu | cuda | cuda:1 ...
    checkpoint_steps: Natural = 0  # also save last.pt every N steps; 0: only after each epoch
    keep_epochs: Natural = 0  # also keep epoch-0010.pt every N epochs; 0: none
    log_steps: Count = 10  # a line of metrics.jsonl every N steps
    tensorboard: bool = False  # the same numbers and samples.png as TensorBoard events
    eval_epochs: Natural = 0  # score the held-out part every N epochs; 0: only as selection needs
    out: Text = "runs/default"
