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

# OpenCV reads it as it is loaded, which is after this package is: without it, a picture of a few
# megabytes may take 6 GB. `ccdn.data.image_types` says why so many.
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
    """The trained network of a file: `ccdn.load("model.safetensors")`.

    path: a safetensors file of `ccdn export`, or a checkpoint of `ccdn train`.
    The network takes crops (B, 3, S, S), float in [0, 1], S = its `config.input_size`, and is in
    evaluation mode. expected: a configuration, a preset's name or a YAML file whose network the
    file must hold. Nothing in the file is executed. Raises ccdn.checkpoint.state.CheckpointError
    for a file that is neither, or that holds the network of another configuration: the message
    names the fields that differ. Raises ccdn.config.ConfigError for a device that is not there.
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
