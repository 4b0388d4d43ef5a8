"""excitation_gates through csrc/cuda/excitation_gates.cu."""

from __future__ import annotations

import torch
from torch import Tensor

from ccdn_ops.backends import native, registry
from ccdn_ops.backends.cuda.device import supports
from ccdn_ops.ops.excitation_gates.spec import outputs


def forward(
    first: Tensor,
    second: Tensor | None,
    reduce_weight: Tensor,
    reduce_bias: Tensor,
    expand_weight: Tensor,
    expand_bias: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """gates, hidden and scales; see ccdn_ops/ops/excitation_gates/spec.py."""
    weights = (reduce_weight, reduce_bias, expand_weight, expand_bias)
    gates, hidden, scales = outputs(first, second, *weights)
    module, shape = native.require(), native.excitation_gates_shape(first, reduce_weight)
    native.launch(
        "excitation_gates",
        module.excitation_gates_forward_cuda,
        shape,
        *(first, 0 if second is None else second),
        *weights,
        *(gates, hidden, scales),
        native.stream(first),
    )
    return gates, hidden, scales


def backward(
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
    """The gradients of the six inputs."""
    inputs = (first, second, reduce_weight, reduce_bias, expand_weight, expand_bias)
    grads = tuple(None if x is None else torch.empty_like(x) for x in inputs)
    module, shape = native.require(), native.excitation_gates_shape(first, reduce_weight)
    native.launch(
        "excitation_gates_backward",
        module.excitation_gates_backward_cuda,
        shape,
        grad_gates,
        *(0 if x is None else x for x in inputs),
        *(hidden, scales),
        *(0 if grad is None else grad for grad in grads),
        native.workspace(module.excitation_gates_workspace_cuda(shape, True), first.device),
        native.stream(first),
    )
    return grads


registry.register(
    "excitation_gates", backend="cuda", forward=forward, backward=backward, supports=supports
)
