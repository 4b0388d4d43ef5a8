"""Configuration: typed dataclasses, YAML presets, and overrides from the command line.

Each field says in its annotation what it may hold, and `ccdn.runtime.validation` checks it.
`load_config("tiny", ["train.lr=1e-3"])` merges, in this order: the defaults of the dataclasses, the
preset or YAML file (and the one named by its `base:` line), and the overrides. Every field can be
overridden.
"""

from ccdn.config.data import DataConfig, SyntheticConfig
from ccdn.config.load import (
    GRID_FOLDER,
    config_from_dict,
    config_to_dict,
    config_to_yaml,
    differences,
    load_config,
    presets,
    read_yaml,
    resolve,
)
from ccdn.config.model import ModelConfig
from ccdn.config.run import Config
from ccdn.config.source import resolve_data
from ccdn.config.train import CocsConfig, LossConfig, TrainConfig
from ccdn.runtime.errors import ConfigError

__all__ = [
    "GRID_FOLDER",
    "CocsConfig",
    "Config",
    "ConfigError",
    "DataConfig",
    "LossConfig",
    "ModelConfig",
    "SyntheticConfig",
    "TrainConfig",
    "config_from_dict",
    "config_to_dict",
    "config_to_yaml",
    "differences",
    "load_config",
    "presets",
    "read_yaml",
    "resolve",
    "resolve_data",
]
