"""ctm on the CPU, through csrc/cpu/ops/ctm.cpp: all of its parts in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ccdn_ops.backends import native, registry, structs
from ccdn_ops.backends.cpu import binding, device
from ccdn_ops.backends.cpu.scratch import scratch_memory
from ccdn_ops.layout import empty_maps, in_lines, in_order_of
from ccdn_ops.plans import DualSqueezePlan, dual_squeeze_plan
from ccdn_ops.precision import DTYPE_NAMES, accumulation_dtype


def _supports(x: Tensor, *arguments: Any) -> str | None:
    """As the other kernels, with both orders and without 16 bits: else the parts are as good."""
    reduce_weight = arguments[0]
    if reduce_weight.shape[1] != 2:
        return "the CPU kernel of the whole ctm has two orders"
    if x.dtype != accumulation_dtype(x.dtype):
        return "the CPU kernel of the whole ctm has no maps of 16 bits"
    return device.supports(x)


def _plan(x: Tensor, iterations: int) -> DualSqueezePlan:
    _, d, h, w = x.shape
    return dual_squeeze_plan(d, h * w, iterations, DTYPE_NAMES[x.dtype], "cpu")


def _shape(x: Tensor, line_stride: int, reduce_weight: Tensor, plan: DualSqueezePlan) -> Any:
    """The argument struct of csrc/common/ctm.h for x of layout.in_lines()."""
    return native.require().CtmShape(
        squeeze=structs.dual_squeeze_shape(x.flatten(2), plan),
        gates=structs.excitation_gates_shape(x.dtype, x.shape[0], reduce_weight),
        excite=structs.multi_excite_shape(x, line_stride, reduce_weight.shape[0]),
    )


def _saved(x: Tensor, reduce_weight: Tensor, plan: DualSqueezePlan) -> list[Sequence[int]]:
    """Sizes of what the forward pass saves."""
    p, orders, units, channels = reduce_weight.shape
    batch, positions = x.shape[0], x.shape[2] * x.shape[3]
    n = (channels if plan.side == "channels" else positions) if plan.saves_gram else 0
    squeezes = [(batch, channels), (batch, channels), (batch,), (batch, n, n)]
    return [*squeezes, (batch, p, channels), (batch, p, orders, units), (batch, p, orders, channels)]


def _forward(x: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    *weights, iterations = arguments
    plan, p = _plan(x, iterations), weights[0].shape[0]
    outputs = empty_maps(x, x.shape[0], p), x.new_empty(x.shape[0], p, x.shape[1])
    saved = [x.new_empty(size) for size in _saved(x, weights[0], plan)]
    x, line_stride = in_lines(x)
    module, workers = native.require(), torch.get_num_threads()
    shape = _shape(x, line_stride, weights[0], plan)
    scratch = scratch_memory(module.ctm_workspace_cpu(shape, workers, False))
    tensors = (x, *weights, *outputs, *saved, scratch)
    native.launch("ctm", module.ctm_forward_cpu, shape, *tensors, workers)
    return (*outputs, *saved)


def _backward(
    grad_excited: Tensor | None, grad_pooled: Tensor | None, x: Tensor, *arguments: Any
) -> tuple[Tensor, ...]:
    weights, saved, iterations = arguments[:4], arguments[4:-1], arguments[-1]
    grads = empty_maps(x, x.shape[0]), *(torch.empty_like(w) for w in weights)
    upstream = (
        None if grad_excited is None else in_order_of(x, grad_excited),
        None if grad_pooled is None else grad_pooled.contiguous(),
    )
    # The kernels write the gradient with the strides that they read.
    x, line_stride = in_lines(x if x.stride() == grads[0].stride() else in_order_of(x, x))
    plan = _plan(x, iterations)
    module, workers = native.require(), torch.get_num_threads()
    shape = _shape(x, line_stride, weights[0], plan)
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
    if not all(w.dtype == x.dtype and w.is_contiguous() for w in weights):
        return None
    plan, workers = _plan(x, iterations), torch.get_num_threads()
    workspace = native.require().ctm_workspace_cpu
    return binding.bound(
        "ctm",
        (x, *weights),
        [empty_maps(like, x.shape[0], p), like.new_empty(x.shape[0], p, x.shape[1])],
        binding.Saving(_shape(x, line_stride, weights[0], plan), _saved(x, weights[0], plan), plan),
        gradients=[grad_x, *(w.new_empty(w.shape, device="meta") for w in weights)],
        workspace=lambda shape, backward: workspace(shape, workers, backward),
        workers=workers,
        zeros=False,
    )


registry.register(
    "ctm",
    backend="cpu",
    forward=device.aligned(_forward),
    backward=device.aligned(_backward),
    supports=_supports,
    bind=_bind,
)
