"""The weights that a run starts from: random ones, or those of a trained network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ccdn.checkpoint.bundled import DEFAULT_WEIGHTS
from ccdn.checkpoint.load import load_checkpoint
from ccdn.checkpoint.state import Checkpoint, check_same_model, load_weights
from ccdn.config import Config
from ccdn.models import CCDN

BUNDLED = "bundled"
_HEADS = "head"  # what the names of all regressors begin with


def start_from(model: CCDN, config: Config) -> str:
    """Copy the weights that `train.init` names into a fresh network; returns what was copied, in
    one line.

    If the file's network has another number of points, the regressors keep their own weights.
    Raises CheckpointError for a file that cannot be read, and for a network that differs in
    anything else, naming the fields.
    """
    name = config.train.init
    source = DEFAULT_WEIGHTS if name == BUNDLED else Path(name).expanduser()
    trained = load_checkpoint(source)
    points = trained.config.model.points
    check_same_model(_without_freedom(config, points), _without_freedom(trained.config), source)
    weights = trained.weights()
    line = f"starting from {_in_words(name, trained)}"
    if points != config.model.points:
        own = model.state_dict()
        heads = [key for key in own if key.startswith(_HEADS)]
        weights = {key: value for key, value in weights.items() if not key.startswith(_HEADS)}
        weights |= {key: own[key] for key in heads}
        line += (
            f"; it has {points} points, this run {config.model.points}: the regressors"
            f" ({', '.join(sorted(heads))}) start afresh"
        )
    load_weights(model, weights, source)
    return line


def _without_freedom(config: Config, points: int | None = None) -> Config:
    """A configuration without the model's fields that may differ: how random weights are drawn,
    and, where `points` is given, the number of landmarks.
    """
    model = replace(config.model, init="he")
    return replace(config, model=model if points is None else replace(model, points=points))


def _in_words(name: str, trained: Checkpoint) -> str:
    weights = "the bundled weights" if name == BUNDLED else name
    return f"{weights} ({trained.step} steps on {trained.data.get('name', 'unknown faces')})"
