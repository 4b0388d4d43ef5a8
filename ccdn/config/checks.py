"""Checks of a configuration that go beyond the types of its fields."""

from __future__ import annotations

import math
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ccdn.config.model import check_model_config
from ccdn.config.run import Config
from ccdn.config.train import check_train_config
from ccdn.runtime.errors import ConfigError

# Allowed values of fields, beyond their types: a list, the lowest value, and a value not reached.
_CHOICES: dict[str, tuple[Any, ...]] = {
    "data.box": ("provided", "gt", "detector"),
    "data.missing_box": ("error", "gt"),
    "data.missing_points": ("error", "place"),
    "data.orientation": ("auto", "stored", "upright"),
}
_LOWEST: dict[str, float] = {
    "data.limit": 1,
    "data.holdout": 0,
    "data.synthetic.train": 1,
    "data.synthetic.test": 1,
    "data.synthetic.size": 16,
    "data.synthetic.pose": 0,
    "data.synthetic.occlusion": 0,
}
_BELOW: dict[str, float] = {
    "data.holdout": 1,
    "data.margin": 10,
}


def check_values(config: Config) -> None:
    """Raise ConfigError, naming the field, for a value with which no run can work."""

    def value(key: str) -> Any:
        found: Any = config
        for part in key.split("."):
            found = found[part] if isinstance(found, dict) else getattr(found, part)
        return found

    for key in field_names(OmegaConf.structured(config)):
        found = value(key)
        if isinstance(found, float) and not math.isfinite(found):
            raise ConfigError(f"{key}: expected a finite number, found {found}")
    from ccdn.data import BENCHMARKS

    for key, allowed in {"data.kind": ("auto", *BENCHMARKS), **_CHOICES}.items():
        if value(key) not in allowed:
            listed = ", ".join(map(str, allowed))
            raise ConfigError(f"{key}: expected one of {listed}; found {value(key)!r}")
    for key, lowest in _LOWEST.items():
        if value(key) is not None and value(key) < lowest:
            raise ConfigError(f"{key}: expected at least {lowest:g}, found {value(key)}")
    for key, bound in _BELOW.items():
        if value(key) >= bound:
            raise ConfigError(f"{key}: expected less than {bound:g}, found {value(key)}")
    try:
        check_model_config(config.model)
        check_train_config(config.train)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    laplace = config.train.loss.kind == "laplace"
    if laplace != config.model.spread:
        raise ConfigError(
            f"model.spread is {str(config.model.spread).lower()} and train.loss.kind"
            f" {config.train.loss.kind}: a spread is learned by laplace, and by no other"
        )
    points = config.data.points
    if points is not None and points != config.model.points:
        raise ConfigError(f"data.points is {points}, model.points is {config.model.points}")
    if config.train.selection == "holdout" and config.data.holdout == 0:
        raise ConfigError("train.selection is holdout, but data.holdout is 0; e.g. 0.05")
    synthetic = config.data.synthetic
    if synthetic.seed == synthetic.test_seed:
        raise ConfigError(
            f"data.synthetic.seed and test_seed are both {synthetic.seed}: the test faces would be"
            " the training faces"
        )


def field_names(node: DictConfig, prefix: str = "") -> list[str]:
    """The full names of all fields below a section."""
    names: list[str] = []
    for key in map(str, node):
        value = node[key]
        if isinstance(value, DictConfig) and len(value):
            names += field_names(value, f"{prefix}{key}.")
        else:
            names.append(f"{prefix}{key}")
    return names
