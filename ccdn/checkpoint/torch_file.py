"""Checkpoints as torch saves them: one file with everything a run needs to resume."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ccdn.checkpoint.pickles import check_pickle
from ccdn.checkpoint.state import Checkpoint, CheckpointError, library_versions
from ccdn.config import ConfigError, config_from_dict, config_to_dict
from ccdn.runtime.files import atomic_write
from ccdn.runtime.quiet import no_warnings
from ccdn.runtime.untrusted import check_archive, check_plain

FORMAT = "ccdn-checkpoint-1"
_LATER = {"scaler", "processes"}  # fields that older files lack
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


def from_bytes(content: bytes, path: Path, device: str | torch.device = "cpu") -> Checkpoint:
    """The checkpoint in a file's content; `path` is for messages. Raises CheckpointError."""
    buffer = io.BytesIO(content)
    try:
        with no_warnings():  # torch's message about foreign pickles is not meant for users
            _check_sums(buffer)
            found = torch.load(buffer, map_location=device, weights_only=True)
    except Exception as error:
        # RuntimeError, EOFError, OSError, UnpicklingError, ..., depending on where the damage is
        raise CheckpointError(
            f"{path}: expected a checkpoint of ccdn train, found another kind of file or a"
            f" truncated or damaged one ({len(content)} bytes)"
        ) from error
    try:
        check_plain(found, _MOST)
        _check_tensors(found, len(content))
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    found_format = found.get("format") if isinstance(found, dict) else type(found).__name__
    if found_format != FORMAT:
        raise CheckpointError(
            f"{path}: expected a checkpoint of ccdn train ({FORMAT!r}), found {found_format!r}"
        )
    names = {entry.name for entry in fields(Checkpoint)}
    missing = sorted(names - set(found) - _LATER)
    if missing:
        raise CheckpointError(f"{path}: the checkpoint lacks {', '.join(missing)}")
    for name in names & set(found):
        if not isinstance(found[name], _KINDS[name]):
            kinds = " or ".join(kind.__name__ for kind in _KINDS[name])
            found_kind = type(found[name]).__name__
            raise CheckpointError(f"{path}: {name} should be a {kinds}, found {found_kind}")
    try:
        found["config"] = config_from_dict(found["config"], source=str(path))
    except ConfigError as error:
        raise CheckpointError(f"{path}: its configuration does not fit here: {error}") from error
    return Checkpoint(**{name: found[name] for name in names & set(found)})


def _check_sums(buffer: io.BytesIO) -> None:
    """Raise if a part of the archive does not match its checksum, which torch does not check."""
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
    """Raise ValueError if a tensor has more numbers than a file of that size can hold. A tensor
    that repeats numbers by strides of 0 takes its full memory when it is copied.
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
