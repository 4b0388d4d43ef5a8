"""The argument structs of csrc/common, made of tensors."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ccdn_ops.backends import native
from ccdn_ops.layout import is_channels_last
from ccdn_ops.newton_schulz_plan import newton_schulz_plan

if TYPE_CHECKING:
    from ccdn_ops.plans import DualSqueezePlan

# csrc/common/status.h
DTYPE_CODES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}


def dual_squeeze_shape(x: Tensor, plan: DualSqueezePlan) -> Any:
    """DualSqueezeShape of x (B, D, N) with any strides.

    It points into the plan's table, so the plan must outlive the call.
    """
    return native.require().DualSqueezeShape(
        **_features(x),
        side=0 if plan.side == "channels" else 1,
        saves_gram=plan.saves_gram,
        terms=plan.terms,
        rank=plan.rank,
        dense_gradient=plan.dense_gradient,
        coefficients=plan.coefficients.ctypes.data,
    )


def excitation_gates_shape(dtype: torch.dtype, batch: int, reduce_weight: Tensor) -> Any:
    """ExcitationGatesShape of squeezes and gates of this dtype."""
    excitations, orders, hidden, channels = reduce_weight.shape
    return native.require().ExcitationGatesShape(
        dtype=DTYPE_CODES[dtype],
        weights_dtype=DTYPE_CODES[reduce_weight.dtype],
        batch=batch,
        excitations=excitations,
        orders=orders,
        channels=channels,
        hidden=hidden,
    )


def multi_excite_shape(
    x: Tensor, line_stride: int, gates_dtype: torch.dtype, excitations: int
) -> Any:
    """MultiExciteShape for x of layout.in_lines()."""
    batch, channels, height, width = x.shape
    return native.require().MultiExciteShape(
        dtype=DTYPE_CODES[x.dtype],
        gates_dtype=DTYPE_CODES[gates_dtype],
        batch=batch,
        excitations=excitations,
        channels=channels,
        positions=height * width,
        channels_last=is_channels_last(x),
        stride_b=x.stride(0),
        stride_row=line_stride,
    )


def cocs_shape(dtype: torch.dtype, levels: array[int], count: int) -> Any:
    """CocsShape of the levels of levels.level_table(), which must outlive the call."""
    return native.require().CocsShape(
        dtype=DTYPE_CODES[dtype], count=count, levels=levels.buffer_info()[0]
    )


def covariance_shape(x: Tensor) -> Any:
    """CovarianceShape for x (B, D, N) with any strides."""
    return native.require().CovarianceShape(**_features(x))


def newton_schulz_shape(a: Tensor, iterations: int, slots: int) -> Any:
    """NewtonSchulzShape for a (B, n, n)."""
    batch, size, _ = a.shape
    return native.require().NewtonSchulzShape(
        dtype=DTYPE_CODES[a.dtype],
        wide=newton_schulz_plan(size, None, iterations, a.dtype, True).wide,
        batch=batch,
        size=size,
        iterations=iterations,
        slots=slots,
    )


def newton_schulz_roots_shape(a: Tensor, iterations: int, norm: bool, slots: int) -> Any:
    """NewtonSchulzRootsShape for a (B, n, n)."""
    matrices = newton_schulz_shape(a, iterations, slots)
    return native.require().NewtonSchulzRootsShape(matrices=matrices, norm=norm)


def isqrt_cov_shape(x: Tensor, iterations: int, triu: bool, slots: int) -> Any:
    """IsqrtCovShape for x (B, D, N) with any strides."""
    _, channels, positions = x.shape
    plan = newton_schulz_plan(channels, positions, iterations, x.dtype, True)
    return native.require().IsqrtCovShape(
        features=covariance_shape(x),
        wide=plan.wide,
        by_positions=plan.side == "positions",
        triangle=triu,
        iterations=iterations,
        slots=slots,
    )


def _features(x: Tensor) -> dict[str, int]:
    batch, channels, positions = x.shape
    stride_b, stride_d, stride_n = x.stride()
    return {
        "dtype": DTYPE_CODES[x.dtype],
        "batch": batch,
        "channels": channels,
        "positions": positions,
        "stride_b": stride_b,
        "stride_d": stride_d,
        "stride_n": stride_n,
    }
