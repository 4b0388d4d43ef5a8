"""What a configuration makes of a device, a network and its optimiser."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ccdn.config import ConfigError, TrainConfig
from ccdn.runtime.processes import ALONE, Processes

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def compute_dtype(config: TrainConfig) -> torch.dtype:
    """The type of weights and images; autocast lowers it where it is safe."""
    return torch.float64 if config.precision == "fp64" else torch.float32


def autocast(config: TrainConfig, device: torch.device) -> AbstractContextManager[object]:
    """The context of a forward pass in the configuration's precision."""
    dtype = _AUTOCAST.get(config.precision)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def make_scaler(config: TrainConfig, device: torch.device) -> torch.amp.GradScaler:
    """Scales losses, so that gradients in fp16 do not vanish; switched off elsewhere."""
    return torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")


def use_deterministic_operators(config: TrainConfig) -> None:
    """train.deterministic, for this process. cuBLAS reads its variable when it is first used."""
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True)


def place(
    model: nn.Module, config: TrainConfig, device: torch.device, processes: Processes = ALONE
) -> nn.Module:
    """Move a network to its device, type and memory format, with its kind of batch normalisation.

    Weights keep their names. Raises ConfigError for synchronised statistics on a CPU.
    """
    sync = config.batch_norm == "sync"
    if sync and device.type == "cpu":
        raise ConfigError("train.batch_norm: sync wants GPUs, found the CPU; local or frozen?")
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
    """What is called in the training step: the network, compiled, and averaging gradients over the
    processes.
    """
    if config.compile != "none":
        mixed = config.precision in _AUTOCAST
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
    """Training mode; batch normalisation keeps its running statistics where they are frozen."""
    model.train()
    if config.batch_norm == "frozen":
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Adam, AdamW or SGD over all weights; vectors (biases, normalisations) are not decayed."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=True)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=config.lr, betas=(config.betas[0], config.betas[1]), fused=True)


def rate_factor(config: TrainConfig, processes: int) -> float:
    """What train.lr_scaling multiplies the learning rate by."""
    power = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}[config.lr_scaling]
    return float(processes) ** power
