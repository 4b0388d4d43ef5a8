"""The state of a run, and what weights must be to fit a network."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ccdn.checkpoint.errors import CheckpointError
from ccdn.config import Config, differences


@dataclass
class Checkpoint:
    """The state of a run after `step` optimiser steps.

    epoch, step_in_epoch: the position of the next batch. mean_shape: (L, 2) float32 in [0, 1] of
    the crop, the mean of the training faces. scaler: of the loss, in fp16. running, epoch_sums:
    sums for the next lines of the log. best: the best held-out score so far. data: a description
    of the faces. threads: torch's, which affect the last bits; processes: how many trained
    together. No random generator has state: all draws follow from the seed and the position in
    the run.
    """

    config: Config
    model: dict[str, Tensor]
    mean_shape: Tensor
    averaged: dict[str, Tensor] | None = None
    optimizer: dict[str, Any] | None = None
    scaler: dict[str, Any] = field(default_factory=dict)
    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    faces: int = 0
    running: dict[str, float] = field(default_factory=dict)
    epoch_sums: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    threads: int = 0
    processes: int = 1
    versions: dict[str, str] = field(default_factory=dict)
    created: str = ""

    def weights(self) -> dict[str, Tensor]:
        """The weights to use: the averaged ones if the run averaged them."""
        return self.model if self.averaged is None else self.averaged


def library_versions() -> dict[str, str]:
    """The versions of Python and the libraries that a result depends on."""
    versions = {"python": platform.python_version()}
    for name in ("ccdn", "torch", "numpy", "opencv-python", "opencv-python-headless"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def load_weights(model: nn.Module, weights: dict[str, Tensor], source: Path) -> None:
    """Copy weights into a model of the same configuration. Raises CheckpointError, naming the first
    misfit.
    """
    check_weights(model.state_dict(), weights, source)
    model.load_state_dict(weights)


def check_weights(own: dict[str, Tensor], weights: dict[str, Tensor], source: Path) -> None:
    """Raise CheckpointError, naming the first misfit, unless a file's weights have the names,
    shapes and kinds of numbers of a network's own, all of them finite.
    """
    for name, tensor in own.items():
        if name not in weights:
            raise CheckpointError(f"{source}: its weights lack {name}, which the model has")
        found = weights[name]
        if not isinstance(found, Tensor):
            raise CheckpointError(
                f"{source}: {name} should be a tensor, found {type(found).__name__}"
            )
        if found.shape != tensor.shape:
            raise CheckpointError(
                f"{source}: {name} has the shape {tuple(found.shape)}, the model expects"
                f" {tuple(tensor.shape)}"
            )
        if found.is_floating_point() != tensor.is_floating_point() or found.is_complex():
            raise CheckpointError(
                f"{source}: {name} has the dtype {found.dtype}, the model expects {tensor.dtype}"
            )
        if found.is_meta or found.layout != torch.strided:
            kind = "meta" if found.is_meta else found.layout
            raise CheckpointError(f"{source}: {name} is a {kind} tensor, the model expects a dense")
        if not bool(torch.isfinite(found.double()).all()):
            raise CheckpointError(f"{source}: {name} holds numbers that are not finite")
    extra = sorted(set(weights) - set(own), key=str)
    if extra:
        raise CheckpointError(f"{source}: unexpected key {extra[0]} in its weights")


def check_same_model(expected: Config, found: Config, source: Path) -> None:
    """Raise CheckpointError, naming the fields, if two configurations differ in their network."""
    named = [
        f"{name} is {theirs!r}, expected {ours!r}"
        for name, (ours, theirs) in differences(expected, found).items()
        if name.startswith("model.")
    ]
    if named:
        raise CheckpointError(f"{source}: made with another configuration: {'; '.join(named)}")
