"""Trained weights as one safetensors file with its configuration: for use, not for resuming.

Tensors are the weights to use (the averaged ones if the run averaged them), by their names in the
network, and `mean_shape`. The metadata holds the other fields of `Checkpoint` as JSON.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from ccdn.checkpoint.state import Checkpoint, CheckpointError, library_versions
from ccdn.config import ConfigError, config_from_dict, config_to_dict
from ccdn.runtime.files import atomic_write

FORMAT = "ccdn-weights-1"
MEAN_SHAPE = "mean_shape"
_LONGEST = 1 << 22  # bytes of the header: about 100 a tensor
# Fields of a Checkpoint that are plain data.
_PLAIN = {"epoch": int, "step": int, "faces": int, "best": dict, "data": dict}


def save_portable(path: Path, checkpoint: Checkpoint, half: bool = False) -> None:
    """Write a checkpoint's weights and configuration, atomically. Raises OSError.

    half: stores matrices and kernels as float16, at half the size; loading gives float32 again.
    Vectors (biases, batch statistics) stay float32: they are small, and a variance may overflow
    float16.
    """
    with atomic_write(path) as file:
        file.write(to_bytes(checkpoint, half))


def to_bytes(checkpoint: Checkpoint, half: bool = False) -> bytes:
    """What `save_portable` writes."""
    tensors = {name: value.detach().cpu() for name, value in checkpoint.weights().items()}
    if half:
        tensors = {
            name: value.half() if value.is_floating_point() and value.ndim > 1 else value
            for name, value in tensors.items()
        }
    tensors[MEAN_SHAPE] = checkpoint.mean_shape
    metadata = {
        "format": FORMAT,
        "config": json.dumps(config_to_dict(checkpoint.config)),
        "averaged": json.dumps(checkpoint.averaged is not None),
        "versions": json.dumps(library_versions()),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **{name: json.dumps(getattr(checkpoint, name)) for name in _PLAIN},
    }
    # Two names may share memory, and a view may be laid out in another order; a file has neither.
    tensors = {n: t.clone(memory_format=torch.contiguous_format) for n, t in tensors.items()}
    return safetensors.torch.save(tensors, metadata)


def is_portable(path: Path) -> bool:
    """Whether a file begins as safetensors files do: a length, then JSON."""
    with open(path, "rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{"


def load_portable(path: Path, device: str | torch.device = "cpu") -> Checkpoint:
    """Read what `save_portable` wrote; nothing in the file is executed.

    The checkpoint has no optimiser. Raises CheckpointError, naming the file, when it is truncated
    or of another kind.
    """
    return from_bytes(path.read_bytes(), path, device)


def from_bytes(content: bytes, path: Path, device: str | torch.device = "cpu") -> Checkpoint:
    """The checkpoint in a file's content; `path` is for messages."""
    # The library reads metadata from files only: a length in 8 bytes, then JSON.
    length = int.from_bytes(content[:8], "little")
    try:
        if length > _LONGEST:
            raise ValueError(f"found a header of {length} bytes, expected {_LONGEST} at most")
        tensors = safetensors.torch.load(content)
        metadata = json.loads(content[8 : 8 + length]).get("__metadata__") or {}
    except Exception as error:
        # SafetensorError, ValueError, KeyError, TypeError, RuntimeError, depending on the damage
        raise CheckpointError(
            f"{path}: expected a safetensors file of ccdn export, found another kind of file or a"
            f" truncated one ({len(content)} bytes)"
        ) from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: expected a safetensors file of ccdn export (format {FORMAT!r} in its"
            f" metadata), found {metadata.get('format')!r}"
        )
    if MEAN_SHAPE not in tensors:
        raise CheckpointError(f"{path}: the file lacks the tensor {MEAN_SHAPE}")
    tensors = {name: _whole(tensor.to(device)) for name, tensor in tensors.items()}
    mean_shape = tensors.pop(MEAN_SHAPE)
    plain = {name: _parse(path, metadata, name, kind) for name, kind in _PLAIN.items()}
    try:
        config = config_from_dict(_parse(path, metadata, "config", dict), source=str(path))
    except ConfigError as error:
        raise CheckpointError(f"{path}: its configuration does not fit here: {error}") from error
    found = Checkpoint(
        config=config,
        model=tensors,
        mean_shape=mean_shape,
        versions=_parse(path, metadata, "versions", dict),
        created=metadata.get("created", ""),
        **plain,
    )
    averaged = _parse(path, metadata, "averaged", bool)
    return replace(found, averaged=tensors) if averaged else found


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype == torch.float16 else tensor


def _parse(path: Path, metadata: dict[str, str], name: str, kind: type) -> Any:
    try:
        value = json.loads(metadata[name])
    except KeyError:
        raise CheckpointError(f"{path}: its metadata lack {name}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: {name} in its metadata is not JSON: {error}") from error
    if not isinstance(value, kind):
        found = type(value).__name__
        raise CheckpointError(f"{path}: {name} should be a {kind.__name__}, found {found}")
    return value
