"""A network on its device and over several processes."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ccdn.config import TrainConfig
from ccdn.runtime.errors import ConfigError
from ccdn.runtime.processes import ALONE, Processes
from ccdn.training.precision import AUTOCAST, compute_dtype


def to_device(
    model: nn.Module, config: TrainConfig, device: torch.device, processes: Processes = ALONE
) -> nn.Module:
    """Move a network to its device, dtype and memory format, with its kind of batch normalisation.

    Weights keep their names. Raises ConfigError for synchronised statistics on a CPU.
    """
    sync = config.batch_norm == "sync"
    if sync and device.type == "cpu":
        raise ConfigError("train.batch_norm: sync needs GPUs, found the CPU; use local or frozen")
    if sync or (config.batch_norm == "auto" and processes.size > 1 and device.type == "cuda"):
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model.to(device, compute_dtype(config))
    if config.channels_last:
        # torch 2.13 declares this argument for tensors only.
        cast(Any, model).to(memory_format=torch.channels_last)
    return model


def distribute(
    model: nn.Module, config: TrainConfig, device: torch.device, processes: Processes = ALONE
) -> nn.Module:
    """The module that the training step calls: the network, compiled if requested, which averages
    gradients over the processes.
    """
    if config.compile != "none":
        mixed = config.precision in AUTOCAST
        on_cpu = device.type == "cpu"
        if config.compile == "inductor" and mixed and on_cpu and torch.__version__ < "2.14":
            raise ConfigError(
                f"train.compile is inductor and train.precision {config.precision} on the CPU,"
                f" where torch {torch.__version__} has wrong gradients under autocast;"
                " expected aot_eager, fp32, or torch 2.14"
            )
        model.compile(backend=config.compile)
    if processes.group is None:
        return model
    return DistributedDataParallel(
        model,
        device_ids=None if device.type == "cpu" else [device.index],
        process_group=processes.group,
        gradient_as_bucket_view=True,
    )


def train_mode(model: nn.Module, config: TrainConfig) -> None:
    """Training mode; frozen batch normalisation keeps its running statistics."""
    model.train()
    if config.batch_norm == "frozen":
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
