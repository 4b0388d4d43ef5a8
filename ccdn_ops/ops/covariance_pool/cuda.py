"""covariance_pool through csrc/cuda/covariance_pool.cu."""

from __future__ import annotations

import torch
from torch import Tensor

from ccdn_ops.backends import native, registry, structs
from ccdn_ops.backends.cuda.device import supports
from ccdn_ops.ops.covariance_pool.spec import outputs


def forward(x: Tensor) -> tuple[Tensor, Tensor]:
    """The covariance and its trace; see ccdn_ops/ops/covariance_pool/spec.py."""
    covariance, trace = outputs(x)
    module, shape = native.require(), structs.covariance_shape(x)
    native.launch(
        "covariance_pool",
        module.covariance_pool_forward_cuda,
        shape,
        *(x, covariance, trace),
        native.workspace(module.covariance_pool_workspace_cuda(shape, False), x.device),
        native.stream(x),
    )
    return covariance, trace


def backward(grad: Tensor, x: Tensor, trace: Tensor) -> Tensor:
    """The gradient of x."""
    grad_x = torch.empty_like(x)
    x = native.like_gradient(x, grad_x)
    module, shape = native.require(), structs.covariance_shape(x)
    native.launch(
        "covariance_pool_backward",
        module.covariance_pool_backward_cuda,
        shape,
        *(grad, x, trace, grad_x),
        native.workspace(module.covariance_pool_workspace_cuda(shape, True), x.device),
        native.stream(x),
    )
    return grad_x


registry.register(
    "covariance_pool", backend="cuda", forward=forward, backward=backward, supports=supports
)
