"""CCDN: robust facial landmark detection by a cross-order cross-semantic deep network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from ccdn.config import Config
    from ccdn.inference.predictor import Predictor
    from ccdn.models import CCDN

    __version__: str

__all__ = ["Predictor", "load"]

# OpenCV reads this variable when it is loaded, which happens after this package. Without it, a
# picture of a few megabytes may take 6 GB. `ccdn.data.image_types` explains the number.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 28))


def __getattr__(name: str) -> Any:
    if name == "Predictor":  # on demand: it brings OpenCV
        from ccdn.inference.predictor import Predictor

        return Predictor
    if name == "__version__":  # on demand: ccdn_ops brings torch
        from ccdn_ops import __version__

        return __version__
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load(
    path: str | Path,
    device: str | torch.device = "cpu",
    expected: str | Config | None = None,
) -> CCDN:
    """Load a trained network: `ccdn.load("model.safetensors")`.

    path: a safetensors file of `ccdn export`, or a checkpoint of `ccdn train`.
    expected: a configuration, the name of a preset or a YAML file; the file must then hold that
    network.

    The network is in evaluation mode and takes crops (B, 3, S, S), float in [0, 1], with S its
    `config.input_size`. Nothing in the file is executed. Raises
    ccdn.checkpoint.state.CheckpointError for any other file, and for a file that holds the network
    of another configuration: the message names the fields that differ. Raises
    ccdn.config.ConfigError for a device that is not available.
    """
    from ccdn.checkpoint.load import load_model
    from ccdn.checkpoint.state import check_same_model
    from ccdn.config import load_config
    from ccdn.runtime.device import pick_device

    model, checkpoint = load_model(Path(path), pick_device(str(device)))
    if expected is not None:
        wanted = load_config(expected) if isinstance(expected, str) else expected
        check_same_model(wanted, checkpoint.config, Path(path))
    return model
