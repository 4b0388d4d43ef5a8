"""ctm through csrc/cuda/ctm.cu: all of its parts in one call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ccdn_ops.backends import native, registry
from ccdn_ops.backends.cuda import device
from ccdn_ops.layout import empty_maps, in_lines, in_order_of
from ccdn_ops.ops.ctm.whole import plan_of, saved_sizes, shape_of
from ccdn_ops.precision import accumulation_dtype


def supports(x: Tensor, *arguments: Any) -> str | None:
    """As the other kernels, and with both orders: with one, the parts are as good."""
    reduce_weight = arguments[0]
    if reduce_weight.shape[1] != 2:
        return "the CUDA kernel of the whole ctm has two orders"
    return device.supports(x)


def forward(x: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    """excited, pooled and what is saved, of (x, weights, iterations): ccdn_ops/ops/ctm/spec.py."""
    *weights, iterations = arguments
    wide, plan = accumulation_dtype(x.dtype), plan_of(x, iterations, "cuda")
    batch, channels, p = x.shape[0], x.shape[1], weights[0].shape[0]
    outputs = empty_maps(x, batch, p), x.new_empty(batch, p, channels)
    shapes = saved_sizes(x, weights[0], plan)
    saved = tuple(x.new_empty(shape, dtype=wide) for shape in shapes)
    x, line_stride = in_lines(x)
    module, shape = native.require(), shape_of(x, line_stride, weights[0], plan)
    scratch = native.workspace(module.ctm_workspace_cuda(shape, False), x.device)
    tensors = (x, *weights, *outputs, *saved, scratch)
    native.launch("ctm", module.ctm_forward_cuda, shape, *tensors, native.stream(x))
    return (*outputs, *saved)


def backward(
    grad_excited: Tensor | None, grad_pooled: Tensor | None, x: Tensor, *arguments: Any
) -> tuple[Tensor, ...]:
    """The gradients of x and of the weights, from (x, weights, what is saved, iterations)."""
    weights, saved, iterations = arguments[:4], arguments[4:-1], arguments[-1]
    grad_x = empty_maps(x, x.shape[0])
    grads = [torch.empty_like(w) for w in weights]
    upstream: list[Tensor | int] = [0, 0]
    if grad_excited is not None:
        upstream[0] = in_order_of(x, grad_excited)
    if grad_pooled is not None:
        upstream[1] = grad_pooled.contiguous()
    # The kernels write the gradient with the strides that they read.
    x, line_stride = in_lines(x if x.stride() == grad_x.stride() else in_order_of(x, x))
    plan = plan_of(x, iterations, "cuda")
    module, shape = native.require(), shape_of(x, line_stride, weights[0], plan)
    scratch = native.workspace(module.ctm_workspace_cuda(shape, True), x.device)
    tensors = (*upstream, x, *weights, *saved, grad_x, *grads, scratch)
    native.launch("ctm_backward", module.ctm_backward_cuda, shape, *tensors, native.stream(x))
    return (grad_x, *grads)


registry.register("ctm", backend="cuda", forward=forward, backward=backward, supports=supports)
