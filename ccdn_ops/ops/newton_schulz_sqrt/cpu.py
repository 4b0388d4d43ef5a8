"""newton_schulz_sqrt on the CPU, through csrc/cpu/ops/newton_schulz_sqrt.cpp."""

from __future__ import annotations

import torch
from torch import Tensor

from ccdn_ops.backends import native, registry, structs
from ccdn_ops.backends.cpu import binding
from ccdn_ops.backends.cpu.device import register
from ccdn_ops.backends.cpu.scratch import scratch_memory
from ccdn_ops.ops.newton_schulz_sqrt.spec import outputs


def _forward(a: Tensor, iterations: int, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    root, trace, iterates = outputs(a, iterations, save)
    module, workers = native.require(), torch.get_num_threads()
    shape = structs.newton_schulz_shape(a, iterations, iterates.shape[1])
    scratch = scratch_memory(module.newton_schulz_sqrt_workspace_cpu(shape, workers, False))
    native.launch(
        "newton_schulz_sqrt",
        module.newton_schulz_sqrt_forward_cpu,
        shape,
        *(a, root, trace, iterates, scratch),
        workers,
    )
    return root, trace, iterates


def _backward(
    grad: Tensor, a: Tensor, trace: Tensor, iterates: Tensor, iterations: int, save: bool
) -> Tensor:
    grad_a = torch.empty_like(a)
    module, workers = native.require(), torch.get_num_threads()
    shape = structs.newton_schulz_shape(a, iterations, iterates.shape[1])
    scratch = scratch_memory(module.newton_schulz_sqrt_workspace_cpu(shape, workers, True))
    native.launch(
        "newton_schulz_sqrt_backward",
        module.newton_schulz_sqrt_backward_cpu,
        shape,
        *(grad, a, trace, iterates, grad_a, scratch),
        workers,
    )
    return grad_a


def _bind(a: Tensor, iterations: int, save: bool) -> registry.Bound | None:
    if not a.is_contiguous():
        return None

    def saving(save: bool) -> binding.Saving:
        _, *states = outputs(a, iterations, save)
        shape = structs.newton_schulz_shape(a, iterations, states[-1].shape[1])
        return binding.Saving(shape, [state.shape for state in states])

    return binding.of_one_tensor("newton_schulz_sqrt", a, [a.shape], saving(True), saving(False))


register("newton_schulz_sqrt", _forward, _backward, _bind)
