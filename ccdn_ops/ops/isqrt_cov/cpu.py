"""isqrt_cov on the CPU, through csrc/cpu/ops/isqrt_cov.cpp."""

from __future__ import annotations

import torch
from torch import Tensor

from ccdn_ops.backends import native, registry, structs
from ccdn_ops.backends.cpu import binding
from ccdn_ops.backends.cpu.device import register
from ccdn_ops.backends.cpu.scratch import scratch_memory
from ccdn_ops.ops.isqrt_cov.spec import outputs


def _forward(x: Tensor, iterations: int, triu: bool, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    root, trace, iterates = outputs(x, iterations, triu, save)
    module, workers = native.require(), torch.get_num_threads()
    shape = structs.isqrt_cov_shape(x, iterations, triu, iterates.shape[1])
    scratch = scratch_memory(module.isqrt_cov_workspace_cpu(shape, workers, False))
    native.launch(
        "isqrt_cov",
        module.isqrt_cov_forward_cpu,
        shape,
        *(x, root, trace, iterates, scratch),
        workers,
    )
    return root, trace, iterates


def _backward(
    grad: Tensor,
    x: Tensor,
    trace: Tensor,
    iterates: Tensor,
    iterations: int,
    triu: bool,
    save: bool,
) -> Tensor:
    grad_x = torch.empty_like(x)
    x = native.like_gradient(x, grad_x)
    module, workers = native.require(), torch.get_num_threads()
    shape = structs.isqrt_cov_shape(x, iterations, triu, iterates.shape[1])
    scratch = scratch_memory(module.isqrt_cov_workspace_cpu(shape, workers, True))
    native.launch(
        "isqrt_cov_backward",
        module.isqrt_cov_backward_cpu,
        shape,
        *(grad, x, trace, iterates, grad_x, scratch),
        workers,
    )
    return grad_x


def _bind(x: Tensor, iterations: int, triu: bool, save: bool) -> registry.Bound | None:
    flat = binding.flat_view(x)
    if flat is None:
        return None

    def saving(save: bool) -> tuple[Tensor, binding.Saving]:
        root, *states = outputs(flat, iterations, triu, save)
        shape = structs.isqrt_cov_shape(flat, iterations, triu, states[-1].shape[1])
        return root, binding.Saving(shape, [state.shape for state in states])

    root, saved = saving(True)
    return binding.of_one_tensor("isqrt_cov", x, [root.shape], saved, saving(False)[1])


register("isqrt_cov", _forward, _backward, _bind)
