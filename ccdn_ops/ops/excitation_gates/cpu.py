"""excitation_gates on the CPU, through csrc/cpu/ops/excitation_gates.cpp."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ccdn_ops.backends import native, registry
from ccdn_ops.backends.cpu.device import supports
from ccdn_ops.backends.cpu.scratch import scratch_memory
from ccdn_ops.ops.excitation_gates.spec import INPUTS, empty_gradients, outputs


def _forward(
    first: Tensor, second: Tensor | None, *weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    found = outputs(first, second, *weights)
    module, shape = native.require(), native.excitation_gates_shape(first, weights[0])
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
    inputs, saved = arguments[:INPUTS], arguments[INPUTS:]
    grads = empty_gradients(*inputs)
    module, shape = native.require(), native.excitation_gates_shape(inputs[0], inputs[2])
    native.launch(
        "excitation_gates_backward",
        module.excitation_gates_backward_cpu,
        shape,
        *(grad_gates, *inputs, *saved),
        *grads,
        scratch_memory(module.excitation_gates_workspace_cpu(shape, True)),
    )
    return grads


registry.register(
    "excitation_gates", backend="cpu", forward=_forward, backward=_backward, supports=supports
)
