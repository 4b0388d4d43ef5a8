"""excitation_gates on the CPU, through csrc/cpu/ops/excitation_gates.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ccdn_ops.backends import native, registry, structs
from ccdn_ops.backends.cpu import binding
from ccdn_ops.backends.cpu.device import register
from ccdn_ops.backends.cpu.scratch import scratch_memory
from ccdn_ops.ops.excitation_gates.spec import INPUTS, empty_gradients, outputs, packed
from ccdn_ops.precision import accumulation_dtype

SIXTEEN = ({torch.bfloat16}, {torch.float16})


def are_read(wide: torch.dtype, weights: Sequence[Tensor]) -> bool:
    """Whether the kernels read such weights: all in the accumulation dtype or one of 16 bits."""
    dtypes = {w.dtype for w in weights}
    return dtypes == {wide} or (wide == torch.float32 and dtypes in SIXTEEN)


def _served(first: Tensor, *weights: Tensor) -> list[Tensor]:
    wide = accumulation_dtype(first.dtype)
    return list(weights) if are_read(wide, weights) else packed(wide, *weights)


def _shape(first: Tensor, weights: Sequence[Tensor]) -> Any:
    return structs.excitation_gates_shape(first.dtype, first.shape[0], weights[0])


def _forward(
    first: Tensor, second: Tensor | None, *weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    weights = tuple(_served(first, *weights))
    found = outputs(first, second, *weights)
    module, shape = native.require(), _shape(first, weights)
    native.launch(
        "excitation_gates",
        module.excitation_gates_forward_cpu,
        shape,
        *(first, second, *weights),
        *found,
        scratch_memory(module.excitation_gates_workspace_cpu(shape, False)),
    )
    return found


def _backward(grad_gates: Tensor, *arguments: Any) -> tuple[Tensor | None, ...]:
    squeezes, saved = arguments[:2], arguments[INPUTS:]
    weights = _served(squeezes[0], *arguments[2:INPUTS])
    inputs = (*squeezes, *weights)
    grads = empty_gradients(*inputs)
    module, shape = native.require(), _shape(squeezes[0], weights)
    native.launch(
        "excitation_gates_backward",
        module.excitation_gates_backward_cpu,
        shape,
        *(grad_gates, *inputs, *saved),
        *grads,
        scratch_memory(module.excitation_gates_workspace_cpu(shape, True)),
    )
    return grads


def _bind(first: Tensor, second: Tensor | None, *weights: Tensor) -> registry.Bound | None:
    wide = accumulation_dtype(first.dtype)
    given = [x for x in (first, second, *weights) if x is not None]
    if not are_read(wide, weights) or not all(x.is_contiguous() for x in given):
        return None
    gates, *states = outputs(first.to("meta"), None, *weights)
    return binding.bound(
        "excitation_gates",
        (first, second, *weights),
        [gates],
        binding.Saving(_shape(first, weights), [y.shape for y in states]),
        workspace=native.require().excitation_gates_workspace_cpu,
    )


register("excitation_gates", _forward, _backward, _bind)
