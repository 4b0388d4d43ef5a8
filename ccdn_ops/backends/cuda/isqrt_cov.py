"""isqrt_cov through csrc/cuda/isqrt_cov.cu."""

from __future__ import annotations

import torch
from torch import Tensor

from ccdn_ops.backends import native, registry
from ccdn_ops.backends.cuda.device import supports
from ccdn_ops.newton_schulz_plan import newton_schulz_plan


def forward(x: Tensor, iterations: int, triu: bool, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    batch, channels, positions = x.shape
    plan = newton_schulz_plan(channels, positions, iterations, x.dtype, save)
    wide = native.accumulation_dtype(x.dtype)
    if triu:
        root = x.new_empty(batch, channels * (channels + 1) // 2)
    else:
        root = x.new_empty(batch, channels, channels)
    trace = x.new_empty(batch, dtype=wide)
    size = positions if plan.side == "positions" else channels
    iterates = x.new_empty(plan.saved_shape(batch, size), dtype=wide)
    module = native.require()
    shape = native.isqrt_cov_shape(x, iterations, triu, plan.slots)
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
    shape = native.isqrt_cov_shape(x, iterations, triu, iterates.shape[1])
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
