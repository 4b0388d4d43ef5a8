"""Checkpoints: one file that holds all a run needs to go on, or a stranger needs to use the
weights.
"""

from __future__ import annotations

import importlib.metadata
import io
import platform
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ccdn.checkpoint.pickles import check_pickle
from ccdn.config import Config, ConfigError, config_from_dict, config_to_dict, differences
from ccdn.runtime.files import atomic_write
from ccdn.runtime.quiet import no_warnings
from ccdn.runtime.untrusted import check_archive, check_plain

if TYPE_CHECKING:
    from ccdn.models import CCDN

FORMAT = "ccdn-checkpoint-1"
_LATER = {"scaler", "processes"}  # fields that older files have not
_MOST = (
    1_000_000  # values of all kinds in a file; a network's tensors and their optimiser: thousands
)
_NONE = type(None)
_KINDS: dict[str, tuple[type, ...]] = {
    "config": (dict,),
    "model": (dict,),
    "mean_shape": (Tensor,),
    "averaged": (dict, _NONE),
    "optimizer": (dict, _NONE),
    "scaler": (dict,),
    **dict.fromkeys(("epoch", "step_in_epoch", "step", "faces", "threads", "processes"), (int,)),
    **dict.fromkeys(("running", "epoch_sums", "best", "data", "versions"), (dict,)),
    "created": (str,),
}


class CheckpointError(ValueError):
    """A file that is not the checkpoint that was expected; the message is one line."""


@dataclass
class Checkpoint:
    """The state of a run after `step` optimiser steps.

    epoch, step_in_epoch: where the next batch is taken. mean_shape: (L, 2) float32 in [0, 1] of the
    crop, the mean of the training faces. scaler: of the loss, in fp16. running, epoch_sums: sums
    behind the log's next lines. best: the best held-out score so far. data: what the faces were.
    threads: torch's, on which the last bits depend; processes: how many trained together. There is
    no state of random generators: all draws follow from the seed and the place in the run.
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
        """The weights to use: the averaged ones where the run averaged them."""
        return self.model if self.averaged is None else self.averaged


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that a result depends on."""
    versions = {"python": platform.python_version()}
    for name in ("ccdn", "torch", "numpy", "opencv-python", "opencv-python-headless"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def save_checkpoint(
    path: Path, checkpoint: Checkpoint, before_replacing: Callable[[], None] | None = None
) -> None:
    """Write a checkpoint atomically: a crash leaves the previous file or this one, complete.

    before_replacing is called when the new file is written and the old one still there. Raises
    OSError when it cannot be written, e.g. on a full disk.
    """
    content = {entry.name: getattr(checkpoint, entry.name) for entry in fields(Checkpoint)}
    content["config"] = config_to_dict(checkpoint.config)
    content["versions"] = library_versions()
    content["created"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
    # Through memory: torch turns a full disk into a RuntimeError that does not say so.
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **content}, buffer)
    with atomic_write(path) as file:
        file.write(buffer.getbuffer())
        if before_replacing is not None:
            before_replacing()


def load_checkpoint(path: Path, device: str | torch.device = "cpu") -> Checkpoint:
    """Read a checkpoint that `save_checkpoint` or `save_portable` wrote; nothing in the file is
    executed.

    Raises CheckpointError, naming the file and what was expected, when it is missing, truncated, of
    another kind, or made by an incompatible version.
    """
    from ccdn.checkpoint.safetensors_file import is_portable, load_portable

    path = Path(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise CheckpointError(f"{path}: expected a checkpoint file such as last.pt, found {found}")
    try:
        if is_portable(path):
            return load_portable(path, device)
        buffer = io.BytesIO(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        with no_warnings():  # what torch says of foreign pickles is not for users
            _check_sums(buffer)
            content = torch.load(buffer, map_location=device, weights_only=True)
    except Exception as error:
        # RuntimeError, EOFError, OSError, UnpicklingError, ...: it depends on where the damage is
        raise CheckpointError(
            f"{path}: expected a checkpoint of ccdn train, found another kind of file or a"
            f" truncated or damaged one ({path.stat().st_size} bytes)"
        ) from error
    try:
        check_plain(content, _MOST)
        _check_tensors(content, len(buffer.getbuffer()))
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    found_format = content.get("format") if isinstance(content, dict) else type(content).__name__
    if found_format != FORMAT:
        raise CheckpointError(
            f"{path}: expected a checkpoint of ccdn train ({FORMAT!r}), found {found_format!r}"
        )
    names = {entry.name for entry in fields(Checkpoint)}
    missing = sorted(names - set(content) - _LATER)
    if missing:
        raise CheckpointError(f"{path}: the checkpoint lacks {', '.join(missing)}")
    for name in names & set(content):
        if not isinstance(content[name], _KINDS[name]):
            kinds = " or ".join(kind.__name__ for kind in _KINDS[name])
            found_kind = type(content[name]).__name__
            raise CheckpointError(f"{path}: {name} should be a {kinds}, found {found_kind}")
    try:
        content["config"] = config_from_dict(content["config"], source=str(path))
    except ConfigError as error:
        raise CheckpointError(f"{path}: its configuration does not fit here: {error}") from error
    return Checkpoint(**{name: content[name] for name in names & set(content)})


def _check_sums(buffer: io.BytesIO) -> None:
    """Raise where a part of the archive has not the sum written beside it; torch does not look."""
    with zipfile.ZipFile(buffer) as archive:
        check_archive(archive, len(buffer.getbuffer()), stored=True)
        damaged = archive.testzip()
        for name in archive.namelist():
            if name.endswith("data.pkl"):
                check_pickle(archive.read(name))
    if damaged is not None:
        raise ValueError(f"{damaged} has another check sum than when it was written")
    buffer.seek(0)


def _check_tensors(content: Any, size: int) -> None:
    """Raise ValueError where a tensor has more numbers than a file of that size can hold: one that
    repeats them, by strides of 0, takes its whole memory when it is copied.
    """
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            if value.numel() * value.element_size() > size:
                shape = tuple(value.shape)
                raise ValueError(f"found a tensor of the shape {shape} in a file of {size} bytes")
        elif isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, (list, tuple, set)):
            waiting.extend(value)


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
        raise CheckpointError(f"{source}: its weights hold {extra[0]}, which the model has not")


def check_same_model(expected: Config, found: Config, source: Path) -> None:
    """Raise CheckpointError, naming the fields, where two configurations are of two networks."""
    named = [
        f"{name} is {theirs!r}, expected {ours!r}"
        for name, (ours, theirs) in differences(expected, found).items()
        if name.startswith("model.")
    ]
    if named:
        raise CheckpointError(f"{source}: made with another configuration: {'; '.join(named)}")


def load_model(path: Path, device: str | torch.device = "cpu") -> tuple[CCDN, Checkpoint]:
    """The trained network of a checkpoint, in evaluation mode on `device`, and the checkpoint."""
    from ccdn.models import build_model

    checkpoint = load_checkpoint(path)
    try:
        model = build_model(checkpoint.config.model)
    except ValueError as error:
        raise CheckpointError(f"{path}: its model cannot be built: {error}") from error
    load_weights(model, checkpoint.weights(), Path(path))
    return model.to(device).eval(), checkpoint
