"""excitation_gates on the CPU, through csrc/cpu/ops/excitation_gates.cpp."""

from __future__ import annotations

import torch
from torch import Tensor

from ccdn_ops.backends import native, registry
from ccdn_ops.backends.cpu.device import supports
from ccdn_ops.backends.cpu.scratch import scratch_memory
from ccdn_ops.ops.excitation_gates.spec import outputs


def _forward(
    first: Tensor,
    second: Tensor | None,
    reduce_weight: Tensor,
    reduce_bias: Tensor,
    expand_weight: Tensor,
    expand_bias: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    weights = (reduce_weight, reduce_bias, expand_weight, expand_bias)
    gates, hidden, scales = outputs(first, second, *weights)
    module, shape = native.require(), native.excitation_gates_shape(first, reduce_weight)
    native.launch(
        "excitation_gates",
        module.excitation_gates_forward_cpu,
        shape,
        *(first, 0 if second is None else second),
        *weights,
        *(gates, hidden, scales),
        scratch_memory(module.excitation_gates_workspace_cpu(shape, False)),
    )
    return gates, hidden, scales


def _backward(
    grad_gates: Tensor,
    first: Tensor,
    second: Tensor | None,
    reduce_weight: Tensor,
    reduce_bias: Tensor,
    expand_weight: Tensor,
    expand_bias: Tensor,
    hidden: Tensor,
    scales: Tensor,
) -> tuple[Tensor | None, ...]:
    inputs = (first, second, reduce_weight, reduce_bias, expand_weight, expand_bias)
    grads = tuple(None if x is None else torch.empty_like(x) for x in inputs)
    module, shape = native.require(), native.excitation_gates_shape(first, reduce_weight)
    native.launch(
        "excitation_gates_backward",
        module.excitation_gates_backward_cpu,
        shape,
        grad_gates,
        *(0 if x is None else x for x in inputs),
        *(hidden, scales),
        *(0 if grad is None else grad for grad in grads),
        scratch_memory(module.excitation_gates_workspace_cpu(shape, True)),
    )
    return grads


registry.register(
    "excitation_gates", backend="cpu", forward=_forward, backward=_backward, supports=supports
)
