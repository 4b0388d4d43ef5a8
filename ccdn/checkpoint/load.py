"""Loading a trained network from a file of either format."""

from __future__ import annotations

from pathlib import Path

import torch

from ccdn.checkpoint import safetensors_file, torch_file
from ccdn.checkpoint.state import Checkpoint, CheckpointError, load_weights
from ccdn.models import CCDN, build_model
from ccdn.runtime.files import address_hint


def load_checkpoint(path: Path, device: str | torch.device = "cpu") -> Checkpoint:
    """Read a checkpoint that `save_checkpoint` or `save_portable` wrote; nothing in the file is
    executed.

    Raises CheckpointError, naming the file and what was expected, when it is missing, truncated, of
    another kind, or made by an incompatible version.
    """
    path = Path(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else f"nothing{address_hint(path)}"
        raise CheckpointError(f"{path}: expected a checkpoint file such as last.pt, found {found}")
    try:
        portable = safetensors_file.is_portable(path)
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    return (safetensors_file if portable else torch_file).from_bytes(content, path, device)


def load_model(path: Path, device: str | torch.device = "cpu") -> tuple[CCDN, Checkpoint]:
    """The trained network of a checkpoint, in evaluation mode on `device`, and the checkpoint."""
    checkpoint = load_checkpoint(path)
    try:
        model = build_model(checkpoint.config.model)
    except ValueError as error:
        raise CheckpointError(f"{path}: its model cannot be built: {error}") from error
    load_weights(model, checkpoint.weights(), Path(path))
    return model.to(device).eval(), checkpoint
