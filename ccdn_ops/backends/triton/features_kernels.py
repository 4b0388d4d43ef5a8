"""Triton kernels for features (B, D, N) of any strides: centred tiles, means, traces.

The features of a sample are seen as (rows, columns); where they are centred, MEAN says whether the
mean, in two float32 parts, belongs to the rows ("row") or the columns ("column"). Every load of
16-bit features is widened at once: products and sums see float32. Indices are int64.

Napkin: channel_means reads the features once from memory and once more from L2 or L1, D N numbers
for 6 D N operations in float64: bound by memory, where the device has its full rate of float64.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_features(
    x, mean, rest, row, column, rows, columns, row_stride, column_stride, MEAN: tl.constexpr
):
    """The (centred) entries at row x column, 0 outside; as float32, where they are not float64."""
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    at = x + row[:, None] * row_stride + column[None, :] * column_stride
    value = tl.load(at, mask=inside, other=0.0)
    if x.dtype.element_ty != tl.float64:
        value = value.to(tl.float32)
    if MEAN == "row":
        value = value - tl.load(mean + row, mask=row < rows, other=0.0)[:, None]
        value = value - tl.load(rest + row, mask=row < rows, other=0.0)[:, None]
    if MEAN == "column":
        value = value - tl.load(mean + column, mask=column < columns, other=0.0)[None, :]
        value = value - tl.load(rest + column, mask=column < columns, other=0.0)[None, :]
    return tl.where(inside, value, 0.0)


@triton.jit
def slice_product(left, right):
    """left right of float32, each entry a sum of its own, for callers to add to the other slices'.

    Triton turns `total += tl.dot(left, right)` into a product that continues where total is: one
    chain of additions over all slices, whose rounding grows with their number. A limit that is
    there for 8-bit floats, and means nothing for others, keeps the two sums apart.
    """
    return tl.dot(left, right, input_precision="ieee", max_num_imprecise_acc=1)


@triton.jit
def channel_means(
    x, mean, rest, first, squares, channels, positions, stride_b, stride_d, stride_n,
    BACKWARD: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Mean of each channel, what its float32 value rounds off, and the sum of centred squares.

    Backward reads the mean and writes only `rest`. One program for BLOCK_D channels of a sample.
    """
    blocks = tl.cdiv(channels, BLOCK_D)
    pid = tl.program_id(0).to(tl.int64)
    b = pid // blocks
    d = pid % blocks * BLOCK_D + tl.arange(0, BLOCK_D).to(tl.int64)
    x += b * stride_b
    total = tl.zeros([BLOCK_D], tl.float64)
    for n0 in range(0, positions, BLOCK_N):
        n = n0 + tl.arange(0, BLOCK_N).to(tl.int64)
        value = load_features(x, x, x, d, n, channels, positions, stride_d, stride_n, "none")
        total += tl.sum(value.to(tl.float64), axis=1)
    exact = total / positions
    at = b * channels + d
    if BACKWARD:
        rounded = tl.load(mean + at, mask=d < channels, other=0.0)
    else:
        rounded = exact.to(tl.float32)
        tl.store(mean + at, rounded, mask=d < channels)
        tl.store(first + at, rounded.to(first.dtype.element_ty), mask=d < channels)
    small = (exact - rounded.to(tl.float64)).to(tl.float32)
    tl.store(rest + at, small, mask=d < channels)
    if not BACKWARD:
        total = tl.zeros([BLOCK_D], tl.float64)
        for n0 in range(0, positions, BLOCK_N):
            n = n0 + tl.arange(0, BLOCK_N).to(tl.int64)
            value = load_features(x, x, x, d, n, channels, positions, stride_d, stride_n, "none")
            value = (value - rounded[:, None]) - small[:, None]
            wide = tl.where((n < positions)[None, :], value, 0.0).to(tl.float64)
            total += tl.sum(wide * wide, axis=1)
        tl.store(squares + at, total, mask=d < channels)


@triton.jit
def sample_traces(mean, squares, traces, channels, positions, BLOCK: tl.constexpr):
    """traces (B,) = sum of squares (B, D) / N, 0 for a constant sample; a program for each.

    A sample is constant where tr S <= (16 eps)^2 (the mean over the positions of |x_n|^2), and also
    where its trace is too small for float32.
    """
    b = tl.program_id(0).to(tl.int64)
    spread = tl.zeros([BLOCK], tl.float64)
    level = tl.zeros([BLOCK], tl.float64)
    for d0 in range(0, channels, BLOCK):
        d = d0 + tl.arange(0, BLOCK).to(tl.int64)
        spread += tl.load(squares + b * channels + d, mask=d < channels, other=0.0)
        centre = tl.load(mean + b * channels + d, mask=d < channels, other=0.0).to(tl.float64)
        level += centre * centre
    trace = tl.sum(spread, axis=0) / positions
    square = tl.sum(level, axis=0) + trace
    rounding = 3.637978807091713e-12  # (16 eps)^2
    constant = (trace <= rounding * square) & (trace < float("inf"))
    tl.store(traces + b, tl.where(constant, 0.0, trace).to(tl.float32))
