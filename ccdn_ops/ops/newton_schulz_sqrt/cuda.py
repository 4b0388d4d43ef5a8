"""newton_schulz_sqrt through csrc/cuda/newton_schulz_sqrt.cu."""

from __future__ import annotations

import torch
from torch import Tensor

from ccdn_ops.backends import native, registry, structs
from ccdn_ops.backends.cuda.device import supports
from ccdn_ops.ops.newton_schulz_sqrt.spec import outputs


def forward(a: Tensor, iterations: int, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    root, trace, iterates = outputs(a, iterations, save)
    module = native.require()
    shape = structs.newton_schulz_shape(a, iterations, iterates.shape[1])
    scratch = native.workspace(module.newton_schulz_sqrt_workspace_cuda(shape, False), a.device)
    native.launch(
        "newton_schulz_sqrt",
        module.newton_schulz_sqrt_forward_cuda,
        shape,
        *(a, root, trace, iterates, scratch),
        native.stream(a),
    )
    return root, trace, iterates


def backward(
    grad: Tensor, a: Tensor, trace: Tensor, iterates: Tensor, iterations: int, save: bool
) -> Tensor:
    grad_a = torch.empty_like(a)
    module = native.require()
    shape = structs.newton_schulz_shape(a, iterations, iterates.shape[1])
    scratch = native.workspace(module.newton_schulz_sqrt_workspace_cuda(shape, True), a.device)
    native.launch(
        "newton_schulz_sqrt_backward",
        module.newton_schulz_sqrt_backward_cuda,
        shape,
        *(grad, a, trace, iterates, grad_a, scratch),
        native.stream(a),
    )
    return grad_a


registry.register(
    "newton_schulz_sqrt", backend="cuda", forward=forward, backward=backward, supports=supports
)
