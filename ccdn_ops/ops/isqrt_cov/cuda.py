"""isqrt_cov through csrc/cuda/isqrt_cov.cu."""

from __future__ import annotations

import torch
from torch import Tensor

from ccdn_ops.backends import native, registry, structs
from ccdn_ops.backends.cuda.device import supports
from ccdn_ops.ops.isqrt_cov.spec import outputs


def forward(x: Tensor, iterations: int, triu: bool, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    root, trace, iterates = outputs(x, iterations, triu, save)
    module = native.require()
    shape = structs.isqrt_cov_shape(x, iterations, triu, iterates.shape[1])
    scratch = native.workspace(module.isqrt_cov_workspace_cuda(shape, False), x.device)
    native.launch(
        "isqrt_cov",
        module.isqrt_cov_forward_cuda,
        shape,
        *(x, root, trace, iterates, scratch),
        native.stream(x),
    )
    return root, trace, iterates


def backward(
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
    module = native.require()
    shape = structs.isqrt_cov_shape(x, iterations, triu, iterates.shape[1])
    scratch = native.workspace(module.isqrt_cov_workspace_cuda(shape, True), x.device)
    native.launch(
        "isqrt_cov_backward",
        module.isqrt_cov_backward_cuda,
        shape,
        *(grad, x, trace, iterates, grad_x, scratch),
        native.stream(x),
    )
    return grad_x


registry.register(
    "isqrt_cov", backend="cuda", forward=forward, backward=backward, supports=supports
)
