"""newton_schulz_roots on the CPU, through csrc/cpu/ops/newton_schulz_roots.cpp."""

from __future__ import annotations

import torch
from torch import Tensor

from ccdn_ops.backends import native, registry, structs
from ccdn_ops.backends.cpu import binding
from ccdn_ops.backends.cpu.device import register
from ccdn_ops.backends.cpu.scratch import scratch_memory
from ccdn_ops.ops.newton_schulz_roots.spec import Outputs, outputs


def _forward(a: Tensor, iterations: int, norm: bool, save: bool) -> Outputs:
    found = outputs(a, iterations, norm, save)
    module, workers = native.require(), torch.get_num_threads()
    shape = structs.newton_schulz_roots_shape(a, iterations, norm, found[3].shape[1])
    scratch = scratch_memory(module.newton_schulz_roots_workspace_cpu(shape, workers, False))
    native.launch(
        "newton_schulz_roots",
        module.newton_schulz_roots_forward_cpu,
        shape,
        *(a, *found, scratch),
        workers,
    )
    return found


def _backward(
    grad_root: Tensor | None,
    grad_inverse: Tensor | None,
    a: Tensor,
    divisor: Tensor,
    iterates: Tensor,
    iterations: int,
    norm: bool,
    save: bool,
) -> Tensor:
    grad_a = torch.empty_like(a)
    module, workers = native.require(), torch.get_num_threads()
    shape = structs.newton_schulz_roots_shape(a, iterations, norm, iterates.shape[1])
    scratch = scratch_memory(module.newton_schulz_roots_workspace_cpu(shape, workers, True))
    native.launch(
        "newton_schulz_roots_backward",
        module.newton_schulz_roots_backward_cpu,
        shape,
        *(grad_root, grad_inverse, a, divisor, iterates, grad_a, scratch),
        workers,
    )
    return grad_a


def _bind(a: Tensor, iterations: int, norm: bool, save: bool) -> registry.Bound | None:
    if not a.is_contiguous():
        return None

    def saving(save: bool) -> binding.Saving:
        _, _, *states = outputs(a, iterations, norm, save)
        shape = structs.newton_schulz_roots_shape(a, iterations, norm, states[-1].shape[1])
        return binding.Saving(shape, [state.shape for state in states])

    return binding.of_one_tensor(
        "newton_schulz_roots", a, [a.shape] * 2, saving(True), saving(False), zeros=False
    )


register("newton_schulz_roots", _forward, _backward, _bind)
