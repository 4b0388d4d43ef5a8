"""ctm through csrc/cuda/ctm.cu: all of its parts in one call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ccdn_ops.backends import native, registry
from ccdn_ops.backends.cuda import device
from ccdn_ops.layout import empty_maps, in_lines
from ccdn_ops.ops.ctm.whole import backward_inputs, empty_results, plan_of, shape_of, why_not


def supports(x: Tensor, *arguments: Any) -> str | None:
    """Why the kernels do not serve a call; None if they do."""
    return why_not(arguments[0], "CUDA") or device.supports(x)


def forward(x: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    """excited, pooled and what is saved, of (x, weights, iterations): ccdn_ops/ops/ctm/spec.py."""
    *weights, iterations = arguments
    plan = plan_of(x, iterations, "cuda")
    outputs, saved = empty_results(x, weights[0], plan)
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
    upstream, x, line_stride = backward_inputs(grad_excited, grad_pooled, x, grad_x)
    plan = plan_of(x, iterations, "cuda")
    module, shape = native.require(), shape_of(x, line_stride, weights[0], plan)
    scratch = native.workspace(module.ctm_workspace_cuda(shape, True), x.device)
    tensors = (*upstream, x, *weights, *saved, grad_x, *grads, scratch)
    native.launch("ctm_backward", module.ctm_backward_cuda, shape, *tensors, native.stream(x))
    return (grad_x, *grads)


registry.register("ctm", backend="cuda", forward=forward, backward=backward, supports=supports)
