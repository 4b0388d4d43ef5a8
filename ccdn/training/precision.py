"""The number formats of a training step, and bitwise reproducibility."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

import torch

from ccdn.config import TrainConfig

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def compute_dtype(config: TrainConfig) -> torch.dtype:
    """The dtype of weights and images; autocast lowers it where that is safe."""
    return torch.float64 if config.precision == "fp64" else torch.float32


def autocast(config: TrainConfig, device: torch.device) -> AbstractContextManager[object]:
    """The context of a forward pass in the configuration's precision."""
    dtype = AUTOCAST.get(config.precision)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def make_scaler(config: TrainConfig, device: torch.device) -> torch.amp.GradScaler:
    """Scales losses so that fp16 gradients do not vanish; switched off for other formats."""
    return torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")


def use_deterministic_operators(config: TrainConfig) -> None:
    """Apply train.deterministic to this process. cuBLAS reads its variable at its first use."""
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True)
