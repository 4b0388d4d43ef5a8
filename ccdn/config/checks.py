"""Checks of a configuration that concern several fields at once; those of one field stand in its
annotation.
"""

from __future__ import annotations

from ccdn.config.model import check_model_config
from ccdn.config.run import Config
from ccdn.runtime.errors import ConfigError


def check_together(config: Config) -> None:
    """Raise ConfigError, naming the fields, for values that contradict each other."""
    try:
        check_model_config(config.model)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    train = config.train
    if train.lr_scaling != "none" and train.batch_scope == "global":
        raise ConfigError(
            f"train.lr_scaling is {train.lr_scaling!r}, but with train.batch_scope global the"
            " batch does not grow with the processes; expected none"
        )
    if (train.loss.kind == "laplace") != config.model.spread:
        raise ConfigError(
            f"model.spread is {str(config.model.spread).lower()} and train.loss.kind"
            f" {train.loss.kind}: a spread is learned by laplace, and by no other"
        )
    points = config.data.points
    if points is not None and points != config.model.points:
        raise ConfigError(f"data.points is {points}, model.points is {config.model.points}")
    if train.selection == "holdout" and config.data.holdout == 0:
        raise ConfigError("train.selection is holdout, but data.holdout is 0; e.g. 0.05")
    synthetic = config.data.synthetic
    if synthetic.seed == synthetic.test_seed:
        raise ConfigError(
            f"data.synthetic.seed and test_seed are both {synthetic.seed}: the test faces would be"
            " the training faces"
        )
