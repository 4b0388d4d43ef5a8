"""newton_schulz_roots through csrc/cuda/newton_schulz_roots.cu."""

from __future__ import annotations

import torch
from torch import Tensor

from ccdn_ops.backends import native, registry, structs
from ccdn_ops.backends.cuda.device import supports
from ccdn_ops.ops.newton_schulz_roots.spec import Outputs, outputs


def forward(a: Tensor, iterations: int, norm: bool, save: bool) -> Outputs:
    found = outputs(a, iterations, norm, save)
    module = native.require()
    shape = structs.newton_schulz_roots_shape(a, iterations, norm, found[3].shape[1])
    scratch = native.workspace(module.newton_schulz_roots_workspace_cuda(shape, False), a.device)
    native.launch(
        "newton_schulz_roots",
        module.newton_schulz_roots_forward_cuda,
        shape,
        *(a, *found, scratch),
        native.stream(a),
    )
    return found


def backward(
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
    module = native.require()
    shape = structs.newton_schulz_roots_shape(a, iterations, norm, iterates.shape[1])
    scratch = native.workspace(module.newton_schulz_roots_workspace_cuda(shape, True), a.device)
    native.launch(
        "newton_schulz_roots_backward",
        module.newton_schulz_roots_backward_cuda,
        shape,
        *(grad_root, grad_inverse, a, divisor, iterates, grad_a, scratch),
        native.stream(a),
    )
    return grad_a


registry.register(
    "newton_schulz_roots", backend="cuda", forward=forward, backward=backward, supports=supports
)
