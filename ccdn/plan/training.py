"""The plan of a training run, settled before anything is built."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ccdn.checkpoint.state import Checkpoint
from ccdn.config import Config
from ccdn.plan.batching import Share, steps_per_epoch, usable_batch
from ccdn.plan.faces import TrainingFaces
from ccdn.runtime.device import pick_device
from ccdn.runtime.errors import ConfigError
from ccdn.runtime.processes import ALONE, Processes


@dataclass(frozen=True)
class TrainingPlan:
    """The input of the trainer.

    config: what the checkpoints will hold. out: folder of the run. device: of this process. share:
    this process's part of each batch. batch_size: images of a step over all processes. steps: of an
    epoch. resume: the checkpoint to resume from, the same on all processes.
    """

    config: Config
    faces: TrainingFaces
    out: Path
    device: torch.device
    share: Share
    batch_size: int
    steps: int
    resume: Checkpoint | None = None
    processes: Processes = ALONE

    @property
    def total(self) -> int:
        """Optimiser steps of the whole run."""
        return self.config.train.epochs * self.steps


def plan_training(
    config: Config,
    faces: TrainingFaces,
    out: Path,
    resume: Checkpoint | None = None,
    processes: Processes = ALONE,
) -> TrainingPlan:
    """Settle a run. Raises ConfigError for a device that is not available, for a batch that the
    processes cannot share equally, and for fields that contradict each other.
    """
    train = config.train
    device = pick_device(train.device, processes.local_rank, "train.device")
    if config.data.on_device and train.workers:
        raise ConfigError(
            f"data.on_device: crops are made by this process; found train.workers {train.workers},"
            " expected 0"
        )
    share = Share(processes.rank, processes.size, train.accumulate)
    wanted = train.batch_size * (processes.size if train.batch_scope == "process" else 1)
    try:
        batch_size = usable_batch(len(faces.crops), wanted, share)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    steps = steps_per_epoch(len(faces.crops), batch_size)
    return TrainingPlan(
        config, faces, Path(out), device, share, batch_size, steps, resume, processes
    )
