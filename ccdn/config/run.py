"""The whole configuration of a run."""

from __future__ import annotations

from dataclasses import dataclass, field

from ccdn.config.data import DataConfig
from ccdn.config.model import ModelConfig
from ccdn.config.train import TrainConfig


@dataclass
class Config:
    """Everything that a run needs; it is saved with the run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
