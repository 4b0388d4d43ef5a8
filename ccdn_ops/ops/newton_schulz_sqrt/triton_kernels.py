"""The Triton kernels of newton_schulz_sqrt: one symmetric product, ten of which are K = 5.

Napkin: `symmetric_product` of n x n float32 matrices reads 8 n^2 bytes and writes 4 n^2 for n^3
multiply-adds where only half of the tiles are computed (ten of sixteen at n = 256: 0.6 n^3). At
n = 256 that is 0.8 MB and 2.1e7 x 3 TF32 terms: 0.23 us of an H100's memory (3.35 TB/s), less where
the L2 cache still holds what the last product wrote, and 0.13 us of its TF32 rate (495 TFLOP/s):
about even, so the sums 1.5 Y - 0.5 Y P and their like are the epilogue of a product and no pass of
their own. The derivative's products have two pairs of factors and twice of both.

Matrices are in panels of PANEL columns (matrices_kernels.py): a tile of either factor is
BLOCK rows of one panel, 128 contiguous bytes each, and both factors are read by rows because they
are symmetric. The accumulators of tensor cores round towards zero: the product of every
slice of BLOCK_K starts from zero and is added in float32.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl

from ccdn_ops.backends.triton.matrices_kernels import (
    lower_tile,
    place,
    product,
    room,
    store_symmetric,
)


@triton.jit
def symmetric_product(
    left, right, left2, right2, u, v, out, n, scale, a, b,
    left_stride_b, right_stride_b, left2_stride_b, right2_stride_b,
    u_stride_b, v_stride_b, out_stride_b,
    TWO: tl.constexpr, U: tl.constexpr, V: tl.constexpr,
    PANEL: tl.constexpr, PRODUCT: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """out = scale (left right) + a u + b v; with TWO scale (left right + left2 right2) + ...

    Each is symmetric, and so is the (sum of the) product. U, V: whether there is a u, a v.
    """
    sample, tile_i, tile_j = lower_tile(tl.program_id(0), n, BLOCK)
    i = tile_i * BLOCK + tl.arange(0, BLOCK).to(tl.int64)
    j = tile_j * BLOCK + tl.arange(0, BLOCK).to(tl.int64)
    total = tl.zeros([BLOCK, BLOCK], out.dtype.element_ty)
    total = add_product(
        total, left + sample * left_stride_b, right + sample * right_stride_b, i, j, n,
        PANEL, PRODUCT, BLOCK_K,
    )  # fmt: skip
    if TWO:
        total = add_product(
            total, left2 + sample * left2_stride_b, right2 + sample * right2_stride_b, i, j, n,
            PANEL, PRODUCT, BLOCK_K,
        )  # fmt: skip
    total = total * scale
    inside = (i < n)[:, None] & (j < n)[None, :]
    at = place(i, j, n, PANEL)
    if U:
        total += a * tl.load(u + sample * u_stride_b + at, mask=inside, other=0.0)
    if V:
        total += b * tl.load(v + sample * v_stride_b + at, mask=inside, other=0.0)
    store_symmetric(out + sample * out_stride_b, total, tile_i, tile_j, n, BLOCK, PANEL)


@triton.jit
def add_product(
    total, left, right, i, j, n, PANEL: tl.constexpr, PRODUCT: tl.constexpr, BLOCK_K: tl.constexpr
):
    """total + left right at rows i and columns j."""
    for k0 in range(0, n, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K).to(tl.int64)
        lines = tl.load(left + place(i, k, n, PANEL), mask=room(i, k, n, PANEL), other=0.0)
        others = tl.load(right + place(j, k, n, PANEL), mask=room(j, k, n, PANEL), other=0.0)
        total += product(lines, tl.trans(others), PRODUCT)
    return total


@triton.jit
def inner_product(
    left, right, sums, n, shift, left_stride_b, right_stride_b,
    PANEL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """sums (B, panels), float64: of the entries of (left + shift 1) times right, panel by panel."""
    panels = tl.cdiv(n, PANEL)
    pid = tl.program_id(0)
    b = (pid // panels).to(tl.int64)
    j = (pid % panels).to(tl.int64) * PANEL + tl.arange(0, PANEL)
    left += b * left_stride_b
    right += b * right_stride_b
    total = tl.zeros([BLOCK, PANEL], tl.float64)
    for i0 in range(0, n, BLOCK):
        i = i0 + tl.arange(0, BLOCK).to(tl.int64)
        inside = (i < n)[:, None] & (j < n)[None, :]
        at = place(i, j, n, PANEL)
        entry = tl.load(left + at, mask=inside, other=0.0).to(tl.float64)
        entry += tl.where(i[:, None] == j[None, :], shift, 0.0).to(tl.float64)
        total += entry * tl.load(right + at, mask=inside, other=0.0).to(tl.float64)
    tl.store(sums + pid, tl.sum(tl.sum(total, axis=1), axis=0))


@triton.jit
def write_rows(
    matrix, factors, out, n, stride_b, PANEL: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    """out = f_0 M + f_1 1, factors (B, 2), as rows (ROWS = 0) or (-1) the upper triangle's.

    A program for each tile. A sample whose factors are 0 is 0.
    """
    across = tl.cdiv(n, BLOCK)
    pid = tl.program_id(0)
    b = (pid // (across * across)).to(tl.int64)
    i = (pid // across % across).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    j = (pid % across).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = (i < n)[:, None] & (j < n)[None, :]
    value = tl.load(matrix + b * stride_b + place(i, j, n, PANEL), mask=inside, other=0.0)
    scale = tl.load(factors + b * 2)
    shift = tl.load(factors + b * 2 + 1)
    value = value * scale.to(value.dtype)
    value += tl.where(i[:, None] == j[None, :], shift.to(value.dtype), 0.0)
    value = tl.where((scale == 0) & (shift == 0), 0.0, value)
    if ROWS == 0:
        out += b * n * n
    else:
        out += b * n * (n + 1) // 2
    inside = inside & room(i, j, n, ROWS)
    tl.store(out + place(i, j, n, ROWS), value.to(out.dtype.element_ty), mask=inside)
