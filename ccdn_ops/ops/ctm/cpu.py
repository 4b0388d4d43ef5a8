"""ctm on the CPU, through csrc/cpu/ops/ctm.cpp: all of its parts in one call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ccdn_ops.backends import native, registry
from ccdn_ops.backends.cpu import binding, device
from ccdn_ops.backends.cpu.scratch import scratch_memory
from ccdn_ops.layout import empty_maps, in_lines
from ccdn_ops.ops.ctm.whole import (
    backward_inputs,
    empty_results,
    plan_of,
    saved_sizes,
    shape_of,
    why_not,
)
from ccdn_ops.ops.excitation_gates.cpu import are_read
from ccdn_ops.precision import accumulation_dtype


def _supports(x: Tensor, *arguments: Any) -> str | None:
    return why_not(arguments[0], "CPU") or device.supports(x)


def _forward(x: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    *weights, iterations = arguments
    plan = plan_of(x, iterations, "cpu")
    outputs, saved = empty_results(x, weights[0], plan)
    x, line_stride = in_lines(x)
    module, workers = native.require(), torch.get_num_threads()
    shape = shape_of(x, line_stride, weights[0], plan)
    scratch = scratch_memory(module.ctm_workspace_cpu(shape, workers, False))
    tensors = (x, *weights, *outputs, *saved, scratch)
    native.launch("ctm", module.ctm_forward_cpu, shape, *tensors, workers)
    return (*outputs, *saved)


def _backward(
    grad_excited: Tensor | None, grad_pooled: Tensor | None, x: Tensor, *arguments: Any
) -> tuple[Tensor, ...]:
    weights, saved, iterations = arguments[:4], arguments[4:-1], arguments[-1]
    grads = empty_maps(x, x.shape[0]), *(torch.empty_like(w) for w in weights)
    upstream, x, line_stride = backward_inputs(grad_excited, grad_pooled, x, grads[0])
    plan = plan_of(x, iterations, "cpu")
    module, workers = native.require(), torch.get_num_threads()
    shape = shape_of(x, line_stride, weights[0], plan)
    scratch = scratch_memory(module.ctm_workspace_cpu(shape, workers, True))
    tensors = (*upstream, x, *weights, *saved, *grads, scratch)
    native.launch("ctm_backward", module.ctm_backward_cpu, shape, *tensors, workers)
    return grads


def _bind(x: Tensor, *arguments: Any) -> registry.Bound | None:
    *weights, iterations = arguments
    like = x.new_empty_strided(x.shape, x.stride(), device="meta")
    grad_x, p = empty_maps(like, x.shape[0]), weights[0].shape[0]
    # Lines whose gradient has the same strides.
    lines, line_stride = in_lines(x)
    if lines is not x or grad_x.stride() != x.stride():
        return None
    if not are_read(accumulation_dtype(x.dtype), weights):
        return None
    if not all(w.is_contiguous() for w in weights):
        return None
    plan, workers = plan_of(x, iterations, "cpu"), torch.get_num_threads()
    workspace = native.require().ctm_workspace_cpu
    return binding.bound(
        "ctm",
        (x, *weights),
        [empty_maps(like, x.shape[0], p), like.new_empty(x.shape[0], p, x.shape[1])],
        binding.Saving(
            shape_of(x, line_stride, weights[0], plan), saved_sizes(x, weights[0], plan), plan
        ),
        gradients=[grad_x, *(w.new_empty(w.shape, device="meta") for w in weights)],
        workspace=lambda shape, backward: workspace(shape, workers, backward),
        workers=workers,
        zeros=False,
    )


device.register("ctm", _forward, _backward, _bind, _supports)
