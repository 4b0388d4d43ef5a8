"""The learning rate as a function of the step, and averaged weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ccdn.config import TrainConfig


def learning_rate(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """The rate of optimiser step `step` (0-based). It has no state, so resuming needs none.

    step: lr times gamma for each milestone passed. cosine: from lr down to final_lr * lr at the
    end; flat_cosine: the same, after the share `flat` of the steps at lr. onecycle: up to lr over
    the warm-up on a cosine, then down on one. All but onecycle begin with a linear warm-up when
    warmup > 0.
    """
    total = max(1, config.epochs * steps_per_epoch)
    warm = min(config.warmup * steps_per_epoch, total)
    if config.schedule == "onecycle":
        low = config.final_lr
        if step < warm:
            return config.lr * (low + (1 - low) * _rise(step / warm))
        return config.lr * (low + (1 - low) * (1 - _rise((step - warm) / max(1, total - warm))))
    factor = min(1.0, (step + 1) / warm) if warm else 1.0
    if config.schedule == "step":
        epoch = step // steps_per_epoch
        factor *= config.gamma ** sum(epoch >= milestone for milestone in config.milestones)
    elif config.schedule in ("cosine", "flat_cosine"):
        flat = total * config.flat if config.schedule == "flat_cosine" else 0.0
        level = max(warm, flat)
        share = max(0.0, step - level) / max(1, total - level)
        factor *= config.final_lr + (1 - config.final_lr) * (1 - _rise(share))
    return config.lr * factor


def _rise(share: float) -> float:
    """Half a cosine from 0 at share 0 to 1 at share 1."""
    return 0.5 - 0.5 * math.cos(math.pi * min(max(share, 0.0), 1.0))


class AveragedWeights:
    """An exponential moving average of a model's weights and statistics.

    The decay starts low, min(decay, (1 + n) / (10 + n)) at update n, so that the first weights are
    forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: value.clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move the average towards the model after optimiser step `step` (1-based)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages: list[Tensor] = []
        values: list[Tensor] = []
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                averages.append(self.weights[name])
                values.append(value)
            else:
                self.weights[name].copy_(value)
        torch._foreach_lerp_(averages, values, 1 - decay)
