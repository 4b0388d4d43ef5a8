"""covariance_pool on the CPU, through csrc/cpu/ops/covariance_pool.cpp."""

from __future__ import annotations

import torch
from torch import Tensor

from ccdn_ops.backends import native, registry, structs
from ccdn_ops.backends.cpu import binding
from ccdn_ops.backends.cpu.device import register
from ccdn_ops.backends.cpu.scratch import scratch_memory
from ccdn_ops.ops.covariance_pool.spec import outputs


def _forward(x: Tensor) -> tuple[Tensor, Tensor]:
    covariance, trace = outputs(x)
    module, workers, shape = native.require(), torch.get_num_threads(), structs.covariance_shape(x)
    scratch = scratch_memory(module.covariance_pool_workspace_cpu(shape, workers, False))
    native.launch(
        "covariance_pool",
        module.covariance_pool_forward_cpu,
        shape,
        *(x, covariance, trace, scratch),
        workers,
    )
    return covariance, trace


def _backward(grad: Tensor, x: Tensor, trace: Tensor) -> Tensor:
    grad_x = torch.empty_like(x)
    x = native.like_gradient(x, grad_x)
    module, workers, shape = native.require(), torch.get_num_threads(), structs.covariance_shape(x)
    scratch = scratch_memory(module.covariance_pool_workspace_cpu(shape, workers, True))
    native.launch(
        "covariance_pool_backward",
        module.covariance_pool_backward_cpu,
        shape,
        *(grad, x, trace, grad_x, scratch),
        workers,
    )
    return grad_x


def _bind(x: Tensor) -> registry.Bound | None:
    flat = binding.flat_view(x)
    if flat is None:
        return None
    batch, channels, _ = flat.shape
    saving = binding.Saving(structs.covariance_shape(flat), [(batch,)])
    return binding.of_one_tensor("covariance_pool", x, [(batch, channels, channels)], saving)


register("covariance_pool", _forward, _backward, _bind)
