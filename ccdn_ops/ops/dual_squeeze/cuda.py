"""dual_squeeze through csrc/cuda/dual_squeeze.cu."""

from __future__ import annotations

import torch
from torch import Tensor

from ccdn_ops.backends import native, registry, structs
from ccdn_ops.backends.cuda.device import supports
from ccdn_ops.plans import dual_squeeze_plan
from ccdn_ops.precision import DTYPE_NAMES, accumulation_dtype


def forward(x: Tensor, iterations: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """first, second, mean, trace, gram of x (B, D, N); see ccdn_ops/ops/dual_squeeze/spec.py."""
    batch, channels, positions = x.shape
    plan = dual_squeeze_plan(channels, positions, iterations, DTYPE_NAMES[x.dtype], "cuda")
    n = channels if plan.side == "channels" else positions
    saved = n if plan.saves_gram else 0
    wide = accumulation_dtype(x.dtype)
    first = x.new_empty(batch, channels)
    second = x.new_empty(batch, channels)
    mean = x.new_empty(batch, channels, dtype=wide)
    trace = x.new_empty(batch, dtype=wide)
    gram = x.new_empty(batch, saved, saved, dtype=wide)
    module, shape = native.require(), structs.dual_squeeze_shape(x, plan)
    scratch = native.workspace(module.dual_squeeze_workspace_cuda(shape, False), x.device)
    native.launch(
        "dual_squeeze",
        module.dual_squeeze_forward_cuda,
        shape,
        *(x, first, second, mean, trace, gram),
        scratch,
        native.stream(x),
    )
    return first, second, mean, trace, gram


def backward(
    grad_first: Tensor,
    grad_second: Tensor,
    x: Tensor,
    mean: Tensor,
    trace: Tensor,
    gram: Tensor,
    iterations: int,
) -> Tensor:
    """The gradient of x (B, D, N) with the strides of torch.empty_like(x)."""
    _, channels, positions = x.shape
    plan = dual_squeeze_plan(channels, positions, iterations, DTYPE_NAMES[x.dtype], "cuda")
    grad_x = torch.empty_like(x)
    x = native.like_gradient(x, grad_x)
    module, shape = native.require(), structs.dual_squeeze_shape(x, plan)
    scratch = native.workspace(module.dual_squeeze_workspace_cuda(shape, True), x.device)
    native.launch(
        "dual_squeeze_backward",
        module.dual_squeeze_backward_cuda,
        shape,
        *(grad_first, grad_second, x, mean.contiguous(), trace.contiguous(), gram.contiguous()),
        grad_x,
        scratch,
        native.stream(x),
    )
    return grad_x


registry.register(
    "dual_squeeze", backend="cuda", forward=forward, backward=backward, supports=supports
)
