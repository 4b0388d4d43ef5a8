"""What the native kernels of the whole ctm (csrc/common/ctm.h) take, on the CPU and on CUDA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ccdn_ops.backends import native, structs
from ccdn_ops.plans import DualSqueezePlan, dual_squeeze_plan
from ccdn_ops.precision import DTYPE_NAMES, accumulation_dtype


def plan_of(x: Tensor, iterations: int, device: str) -> DualSqueezePlan:
    _, d, h, w = x.shape
    return dual_squeeze_plan(d, h * w, iterations, DTYPE_NAMES[x.dtype], device)


def shape_of(x: Tensor, line_stride: int, reduce_weight: Tensor, plan: DualSqueezePlan) -> Any:
    """CtmShape for x of layout.in_lines(). It points into the plan's table."""
    return native.require().CtmShape(
        squeeze=structs.dual_squeeze_shape(x.flatten(2), plan),
        gates=structs.excitation_gates_shape(
            accumulation_dtype(x.dtype), x.shape[0], reduce_weight
        ),
        excite=structs.multi_excite_shape(x, line_stride, reduce_weight.shape[0]),
    )


def saved_sizes(x: Tensor, reduce_weight: Tensor, plan: DualSqueezePlan) -> list[Sequence[int]]:
    """The sizes of what the forward pass saves (spec.py), all in the accumulation dtype."""
    p, orders, units, channels = reduce_weight.shape
    batch, positions = x.shape[0], x.shape[2] * x.shape[3]
    n = (channels if plan.side == "channels" else positions) if plan.saves_gram else 0
    squeezes, gates = (batch, channels), (batch, p, channels)
    hidden, scales = (batch, p, orders, units), (batch, p, orders, channels)
    return [squeezes, squeezes, (batch,), (batch, n, n), gates, hidden, scales]
