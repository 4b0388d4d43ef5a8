"""What the native kernels of the whole ctm (csrc/common/ctm.h) take, on the CPU and on CUDA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ccdn_ops.backends import native, structs
from ccdn_ops.layout import empty_maps, in_lines, in_order_of
from ccdn_ops.plans import DualSqueezePlan, dual_squeeze_plan
from ccdn_ops.precision import DTYPE_NAMES, accumulation_dtype


def why_not(reduce_weight: Tensor, device: str) -> str | None:
    """Why the kernel does not serve such weights; None if it does. With one order the parts are as
    good."""
    if reduce_weight.shape[1] != 2:
        return f"the {device} kernel of the whole ctm has two orders"
    return None


def plan_of(x: Tensor, iterations: int, device: str) -> DualSqueezePlan:
    _, d, h, w = x.shape
    return dual_squeeze_plan(d, h * w, iterations, DTYPE_NAMES[x.dtype], device)


def shape_of(x: Tensor, line_stride: int, reduce_weight: Tensor, plan: DualSqueezePlan) -> Any:
    """CtmShape for x of layout.in_lines(). It points into the plan's table."""
    wide = accumulation_dtype(x.dtype)
    return native.require().CtmShape(
        squeeze=structs.dual_squeeze_shape(x.flatten(2), plan),
        gates=structs.excitation_gates_shape(wide, x.shape[0], reduce_weight),
        excite=structs.multi_excite_shape(x, line_stride, wide, reduce_weight.shape[0]),
    )


def saved_sizes(x: Tensor, reduce_weight: Tensor, plan: DualSqueezePlan) -> list[Sequence[int]]:
    """The sizes of what the forward pass saves (spec.py), all in the accumulation dtype."""
    p, orders, units, channels = reduce_weight.shape
    batch, positions = x.shape[0], x.shape[2] * x.shape[3]
    n = (channels if plan.side == "channels" else positions) if plan.saves_gram else 0
    squeezes, gates = (batch, channels), (batch, p, channels)
    hidden, scales = (batch, p, orders, units), (batch, p, orders, channels)
    return [squeezes, squeezes, (batch,), (batch, n, n), gates, hidden, scales]


def empty_results(
    x: Tensor, reduce_weight: Tensor, plan: DualSqueezePlan
) -> tuple[tuple[Tensor, Tensor], list[Tensor]]:
    """What the forward pass writes: excited and pooled, and what is saved."""
    batch, channels, p = x.shape[0], x.shape[1], reduce_weight.shape[0]
    wide = accumulation_dtype(x.dtype)
    saved = [x.new_empty(size, dtype=wide) for size in saved_sizes(x, reduce_weight, plan)]
    return (empty_maps(x, batch, p), x.new_empty(batch, p, channels)), saved


def backward_inputs(
    grad_excited: Tensor | None, grad_pooled: Tensor | None, x: Tensor, grad_x: Tensor
) -> tuple[tuple[Tensor | None, Tensor | None], Tensor, int]:
    """The upstream gradients and x as the backward pass reads them, and x's stride from line to
    line. The kernels write grad_x with the strides of that x."""
    upstream = (
        None if grad_excited is None else in_order_of(x, grad_excited),
        None if grad_pooled is None else grad_pooled.contiguous(),
    )
    return upstream, *in_lines(x if x.stride() == grad_x.stride() else in_order_of(x, x))
