"""The device that a name stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ccdn.runtime.errors import ConfigError

if TYPE_CHECKING:
    import torch


def pick_device(name: str, local_rank: int = 0, field: str = "device") -> torch.device:
    """The device with this name; auto is the CUDA device with this process's number, or the CPU.
    Raises ConfigError for a device that is not available; `field` is the user's name for the
    option.
    """
    import torch

    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        name = f"cuda:{local_rank}"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"{field}: expected auto, cpu or cuda, found {name!r}")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", local_rank)
    if device.type == "cuda" and device.index >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise ConfigError(f"{field} is {name!r}, but torch finds {found} CUDA devices")
    return device
