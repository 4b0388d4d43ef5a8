"""How a network is optimised: the `train` section of a configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class CocsConfig:
    """Weights of the COCS terms at stage T, stage T-1 and the fused maps (eq. 9)."""

    t: float = 0.025
    t1: float = 0.01
    g: float = 0.05

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

    kind: str = "l2"  # l2 | smooth_l1 | wing | laplace
    smooth_width: float = 1.0  # smooth_l1: pixels below which it is quadratic
    wing_width: float = 10.0  # wing: pixels below which it is logarithmic
    wing_curvature: float = 2.0  # wing: epsilon, pixels
    coordinates: str = "unit"  # unit: [0, 1] of the crop | pixels of the crop
    over_points: str = "sum"  # sum | mean
    over_batch: str = "mean"  # mean | sum, as eq. 9 prints it


@dataclass
class TrainConfig:
    """The optimisation; the defaults are the paper's where it speaks."""

    epochs: int = 150
    batch_size: int = 16  # images of an optimiser step; see batch_scope
    batch_scope: str = "global"  # global: over all processes | process: of each of them
    accumulate: int = 1  # parts of the batch, one after the other; COCS is that of each part
    optimizer: str = "adam"  # adam | adamw | sgd
    lr: float = 2.5e-4
    lr_scaling: str = "none"  # none | sqrt | linear, in the processes where batch_scope is process
    betas: list[float] = field(default_factory=lambda: [0.5, 0.999])
    momentum: float = 0.9  # of sgd
    weight_decay: float = 0.0
    schedule: str = "step"  # step | cosine | flat_cosine | onecycle | constant
    milestones: list[int] = field(default_factory=lambda: [40, 100])  # epochs, of step
    gamma: float = 0.5  # factor at each milestone
    warmup: float = 0.0  # epochs of linear warm-up (onecycle: where the peak lies)
    flat: float = 0.5  # share of the steps before flat_cosine begins to fall
    final_lr: float = 0.01  # last rate of the cosines and onecycle, as a share of lr
    clip: float = 0.0  # largest gradient norm; 0: not clipped
    loss: LossConfig = field(default_factory=LossConfig)
    cocs: CocsConfig = field(default_factory=CocsConfig)
    cocs_scope: str = "global"  # global: Q over all processes' samples | local: over each one's
    batch_norm: str = "auto"  # auto: sync with several GPUs, else local | local | sync | frozen
    ema: float = 0.0  # decay of averaged weights; 0: off
    selection: str = "last"  # last | holdout
    seed: int = 0
    workers: int = 0  # processes that prepare batches, for each one that trains; 0: a thread of it
    threads: int = 0  # torch threads; 0: as torch finds
    precision: str = "fp32"  # fp32 | bf16 | fp16 (autocast; fp16 scales the loss) | fp64
    channels_last: bool = False
    compile: str = "none"  # none | inductor | aot_eager: torch.compile with this backend
    deterministic: bool = False  # only operators that give the same bits again, or an error
    device: str = "auto"  # auto | cpu | cuda | cuda:1 ...
    checkpoint_steps: int = 0  # also save last.pt every N steps; 0: only after each epoch
    keep_epochs: int = 0  # also keep epoch-0010.pt every N epochs; 0: none
    log_steps: int = 10  # a line of metrics.jsonl every N steps
    tensorboard: bool = False  # the same numbers and samples.png as TensorBoard events
    eval_epochs: int = 0  # score the held-out part every N epochs; 0: only as selection needs
    out: str = "runs/default"


_CHOICES: dict[str, tuple[str, ...]] = {
    "batch_scope": ("global", "process"),
    "optimizer": ("adam", "adamw", "sgd"),
    "lr_scaling": ("none", "sqrt", "linear"),
    "schedule": ("step", "cosine", "flat_cosine", "onecycle", "constant"),
    "cocs_scope": ("global", "local"),
    "batch_norm": ("auto", "local", "sync", "frozen"),
    "selection": ("last", "holdout"),
    "precision": ("fp32", "bf16", "fp16", "fp64"),
    "compile": ("none", "inductor", "aot_eager"),
    "loss.kind": ("l2", "smooth_l1", "wing", "laplace"),
    "loss.coordinates": ("unit", "pixels"),
    "loss.over_points": ("sum", "mean"),
    "loss.over_batch": ("mean", "sum"),
}
_LOWEST: dict[str, float] = {
    "epochs": 1,
    "batch_size": 1,
    "accumulate": 1,
    "lr": 0,
    "momentum": 0,
    "weight_decay": 0,
    "warmup": 0,
    "flat": 0,
    "final_lr": 0,
    "clip": 0,
    "cocs.t": 0,
    "cocs.t1": 0,
    "cocs.g": 0,
    "ema": 0,
    "seed": 0,
    "workers": 0,
    "threads": 0,
    "checkpoint_steps": 0,
    "keep_epochs": 0,
    "log_steps": 1,
    "eval_epochs": 0,
}
_ABOVE = {"loss.smooth_width": 0, "loss.wing_width": 0, "loss.wing_curvature": 0}
_BELOW = {"ema": 1, "flat": 1, "momentum": 1, "seed": 2**63}


def check_train_config(config: TrainConfig) -> None:
    """Raise ValueError, naming the field, for a value that no run can use."""

    def value(key: str) -> Any:
        found: Any = config
        for part in key.split("."):
            found = getattr(found, part)
        return found

    for key, allowed in _CHOICES.items():
        if value(key) not in allowed:
            raise ValueError(
                f"train.{key}: expected one of {', '.join(allowed)}; found {value(key)!r}"
            )
    for key, lowest in _LOWEST.items():
        if value(key) < lowest:
            raise ValueError(f"train.{key}: expected at least {lowest:g}, found {value(key)}")
    for key, bound in _ABOVE.items():
        if value(key) <= bound:
            raise ValueError(f"train.{key}: expected more than {bound:g}, found {value(key)}")
    for key, bound in _BELOW.items():
        if value(key) >= bound:
            raise ValueError(f"train.{key}: expected less than {bound:g}, found {value(key)}")
    if len(config.betas) != 2:
        raise ValueError(f"train.betas: expected 2 values, found {config.betas}")
    if not all(0 <= beta < 1 for beta in config.betas):
        raise ValueError(f"train.betas: expected numbers from 0 to below 1, found {config.betas}")
    if config.lr_scaling != "none" and config.batch_scope == "global":
        raise ValueError(
            f"train.lr_scaling is {config.lr_scaling!r}, but with train.batch_scope global the"
            " batch does not grow with the processes; expected none"
        )
