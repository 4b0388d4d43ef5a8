"""excitation_gates through csrc/cuda/excitation_gates.cu."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ccdn_ops.backends import native, registry, structs
from ccdn_ops.backends.cuda.device import supports
from ccdn_ops.ops.excitation_gates.spec import INPUTS, empty_gradients, in_wide, outputs


def forward(
    first: Tensor, second: Tensor | None, *weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """gates, hidden and scales; see ccdn_ops/ops/excitation_gates/spec.py."""
    found = outputs(first, second, *weights)
    module = native.require()
    shape = structs.excitation_gates_shape(first.dtype, first.shape[0], weights[0])
    native.launch(
        "excitation_gates",
        module.excitation_gates_forward_cuda,
        shape,
        *(first, second, *weights),
        *found,
        native.stream(first),
    )
    return found


def backward(grad_gates: Tensor, *arguments: Any) -> tuple[Tensor | None, ...]:
    """The gradients of the six inputs, from (inputs, hidden, scales)."""
    inputs, saved = arguments[:INPUTS], arguments[INPUTS:]
    first = inputs[0]
    grads = empty_gradients(*inputs)
    module = native.require()
    shape = structs.excitation_gates_shape(first.dtype, first.shape[0], inputs[2])
    native.launch(
        "excitation_gates_backward",
        module.excitation_gates_backward_cuda,
        shape,
        *(grad_gates, *inputs, *saved),
        *grads,
        native.workspace(module.excitation_gates_workspace_cuda(shape, True), first.device),
        native.stream(first),
    )
    return grads


registry.register(
    "excitation_gates",
    backend="cuda",
    forward=in_wide(forward),
    backward=in_wide(backward),
    supports=supports,
)
