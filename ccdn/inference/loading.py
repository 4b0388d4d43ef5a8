"""The network in a file of weights, loaded once for all predictors of a process."""

from __future__ import annotations

import functools
from pathlib import Path

from ccdn.inference.network import Network
from ccdn.runtime.errors import ConfigError


def is_onnx(weights: str | Path) -> bool:
    """Whether a file's name is that of an ONNX file."""
    return Path(weights).suffix.lower() == ".onnx"


def load_network(weights: Path, device: str = "auto", threads: int | None = None) -> Network:
    """The network in a file, as often as it is asked for: until the file changes.

    Raises CheckpointError for another file, ConfigError for a device that is not available.
    """
    device = _settled(weights, device)
    try:
        about = weights.stat()
    except OSError:  # what is there instead is said by the reader of the file
        return _loaded.__wrapped__(weights, 0, 0, device, threads)
    return _loaded(weights.absolute(), about.st_mtime_ns, about.st_size, device, threads)


def _settled(weights: Path, device: str) -> str:
    """The device by its name, so that auto and what it stands for share a network."""
    if is_onnx(weights):
        if device not in ("auto", "cpu"):
            raise ConfigError(f"{weights}: ONNX Runtime computes on the CPU, found device {device}")
        return "cpu"
    from ccdn.runtime.device import pick_device

    return str(pick_device(device))


@functools.lru_cache(maxsize=4)
def _loaded(weights: Path, changed: int, size: int, device: str, threads: int | None) -> Network:
    if is_onnx(weights):
        from ccdn.inference.onnx_network import OnnxNetwork

        return OnnxNetwork(weights, threads)
    from ccdn.inference.torch_network import TorchNetwork

    return TorchNetwork.load(weights, device, threads)
