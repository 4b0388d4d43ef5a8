"""The Triton kernels of dual_squeeze. Imports triton: only triton.py next to it does.

The features of a sample are seen as (rows, columns) of any strides; where they are centred, MEAN
says whether the mean in two float32 parts belongs to the rows ("row") or the columns ("column").
Vectors and sums over lines are float64, matrices and their products float32. Indices are int64, so
that tensors may have more than 2^31 elements. Every load of 16-bit features is widened at once:
products and sums see float32. Triton compiles integer arguments that are 1 as constants: scalars
take part in arithmetic, but nothing is asked of them that a number does not have.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl

from ccdn_ops.backends.triton.features_kernels import load_features, slice_product


@triton.jit
def gram_matrix(
    x, mean, rest, gram, free, side, positions, channels, stride_b, free_stride, side_stride,
    MEAN: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """gram (B, side, side) = Xc^T Xc / N with x seen as free x side; a program for each tile.

    MEAN is seen from the transposed features, side x free. Tiles above the diagonal are mirrored.
    """
    across = tl.cdiv(side, BLOCK)
    pid = tl.program_id(0).to(tl.int64)
    b = pid // (across * across)
    tile_i = pid // across % across
    tile_j = pid % across
    if tile_j <= tile_i:
        i = tile_i * BLOCK + tl.arange(0, BLOCK).to(tl.int64)
        j = tile_j * BLOCK + tl.arange(0, BLOCK).to(tl.int64)
        x += b * stride_b
        mean += b * channels
        rest += b * channels
        total = tl.zeros([BLOCK, BLOCK], tl.float32)
        for k0 in range(0, free, BLOCK_K):
            k = k0 + tl.arange(0, BLOCK_K).to(tl.int64)
            left = load_features(x, mean, rest, i, k, side, free, side_stride, free_stride, MEAN)
            right = load_features(x, mean, rest, j, k, side, free, side_stride, free_stride, MEAN)
            total += slice_product(left, tl.trans(right))
        # In float64: a division of float32 is not rounded to the nearest on a device.
        total = (total.to(tl.float64) / positions).to(tl.float32)
        inside = (i < side)[:, None] & (j < side)[None, :]
        gram += b * side * side
        tl.store(gram + i[:, None] * side + j[None, :], total, mask=inside)
        if tile_j < tile_i:
            tl.store(gram + j[None, :] * side + i[:, None], total, mask=inside)


@triton.jit
def matrix_vector(
    x, mean, rest, vector, out, rows, columns, channels, stride_b, row_stride, column_stride,
    MEAN: tl.constexpr, ONES: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """out (B, rows) = x (B, rows, columns) vector (B, columns), or x 1, in float64."""
    blocks = tl.cdiv(rows, BLOCK_R)
    pid = tl.program_id(0).to(tl.int64)
    b = pid // blocks
    row = pid % blocks * BLOCK_R + tl.arange(0, BLOCK_R).to(tl.int64)
    x += b * stride_b
    if MEAN != "none":
        mean += b * channels
        rest += b * channels
    total = tl.zeros([BLOCK_R], tl.float64)
    for c0 in range(0, columns, BLOCK_C):
        c = c0 + tl.arange(0, BLOCK_C).to(tl.int64)
        value = load_features(x, mean, rest, row, c, rows, columns, row_stride, column_stride, MEAN)
        wide = value.to(tl.float64)
        if not ONES:
            weight = tl.load(vector + b * columns + c, mask=c < columns, other=0.0)
            wide = wide * weight[None, :]
        total += tl.sum(wide, axis=1)
    tl.store(out + b * rows + row, total, mask=row < rows)


@triton.jit
def chebyshev_rows(gram, trace, rows, n, terms, starts, BLOCK: tl.constexpr):
    """rows (B, starts, terms, n), row 0 given: t_j = T_j(2 C / tr - 1) t_0.

    One program for each start. Its threads meet between two terms, so that what some wrote the
    others read. One pointer moves along the rows: of two that are equal when a loop begins and of
    which one is assigned to the other, Triton carries one only.
    """
    pid = tl.program_id(0).to(tl.int64)
    b = pid // starts
    gram += b * n * n
    rows += pid * terms * n
    factor = 2.0 / tl.load(trace + b).to(tl.float64)
    last = rows
    for j in range(1, terms):
        for i0 in range(0, n, BLOCK):
            i = i0 + tl.arange(0, BLOCK).to(tl.int64)
            total = tl.zeros([BLOCK], tl.float64)
            for k0 in range(0, n, BLOCK):
                k = k0 + tl.arange(0, BLOCK).to(tl.int64)
                inside = (k < n)[:, None] & (i < n)[None, :]
                entry = tl.load(gram + k[:, None] * n + i[None, :], mask=inside, other=0.0)
                vector = tl.load(last + k, mask=k < n, other=0.0)
                total += tl.sum(entry.to(tl.float64) * vector[:, None], axis=0)
            moved = factor * total - tl.load(last + i, mask=i < n, other=0.0)
            second = tl.load(last - n + i, mask=(i < n) & (j > 1), other=0.0)
            value = tl.where(j > 1, 2.0 * moved - second, moved)
            tl.store(last + n + i, value, mask=i < n)
        last += n
        tl.debug_barrier()


@triton.jit
def combine_rows(
    table, rows, out, n, terms, count, row_stride_b, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr
):
    """out (B, count, n) = table (count, terms) rows (B, terms, n), in float64."""
    down = tl.cdiv(count, BLOCK_R)
    across = tl.cdiv(n, BLOCK_N)
    pid = tl.program_id(0).to(tl.int64)
    b = pid // (down * across)
    r = pid // across % down * BLOCK_R + tl.arange(0, BLOCK_R).to(tl.int64)
    i = pid % across * BLOCK_N + tl.arange(0, BLOCK_N).to(tl.int64)
    rows += b * row_stride_b
    total = tl.zeros([BLOCK_R, BLOCK_N], tl.float64)
    for j in range(0, terms):
        weight = tl.load(table + r * terms + j, mask=r < count, other=0.0)
        row = tl.load(rows + i, mask=i < n, other=0.0)
        total += weight[:, None] * row[None, :]
        rows += n
    inside = (r < count)[:, None] & (i < n)[None, :]
    tl.store(out + (b * count + r)[:, None] * n + i[None, :], total, mask=inside)


@triton.jit
def pair_matrix(left, right, outer, diagonal, matrix, n, pairs, BLOCK: tl.constexpr):
    """matrix (B, n, n) = outer * sum over r of (left_r right_r^T + right_r left_r^T) + diagonal."""
    across = tl.cdiv(n, BLOCK)
    pid = tl.program_id(0).to(tl.int64)
    b = pid // (across * across)
    i = pid // across % across * BLOCK + tl.arange(0, BLOCK).to(tl.int64)
    j = pid % across * BLOCK + tl.arange(0, BLOCK).to(tl.int64)
    left += b * pairs * n
    right += b * pairs * n
    total = tl.zeros([BLOCK, BLOCK], tl.float64)
    for _ in range(0, pairs):
        left_i = tl.load(left + i, mask=i < n, other=0.0)
        left_j = tl.load(left + j, mask=j < n, other=0.0)
        right_i = tl.load(right + i, mask=i < n, other=0.0)
        right_j = tl.load(right + j, mask=j < n, other=0.0)
        left += n
        right += n
        total += left_i[:, None] * right_j[None, :] + right_i[:, None] * left_j[None, :]
    total = total * tl.load(outer + b)
    total += tl.where(i[:, None] == j[None, :], tl.load(diagonal + b), 0.0)
    inside = (i < n)[:, None] & (j < n)[None, :]
    tl.store(matrix + b * n * n + i[:, None] * n + j[None, :], total.to(tl.float32), mask=inside)


@triton.jit
def expand_gradient(
    x, mean, rest, matrix, trace, grad_first, weight, start, result, out,
    free, side, positions, channels, stride_b, free_stride, side_stride,
    out_stride_b, out_free_stride, out_side_stride,
    MEAN: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """out = Xc matrix + grad_first / N, and with MEAN == "row" (positions) + start + weight result.

    x and out are seen as free x side. A constant sample gets grad_first / N only.
    """
    down = tl.cdiv(free, BLOCK_F)
    across = tl.cdiv(side, BLOCK_S)
    pid = tl.program_id(0).to(tl.int64)
    b = pid // (down * across)
    f = pid // across % down * BLOCK_F + tl.arange(0, BLOCK_F).to(tl.int64)
    s = pid % across * BLOCK_S + tl.arange(0, BLOCK_S).to(tl.int64)
    mean += b * channels
    rest += b * channels
    grad_first += b * channels
    total = tl.zeros([BLOCK_F, BLOCK_S], tl.float32)
    for k0 in range(0, side, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K).to(tl.int64)
        left = load_features(
            x + b * stride_b, mean, rest, f, k, free, side, free_stride, side_stride, MEAN
        )
        inside = (k < side)[:, None] & (s < side)[None, :]
        at = matrix + b * side * side + k[:, None] * side + s[None, :]
        total += slice_product(left, tl.load(at, mask=inside, other=0.0))
    if MEAN == "row":
        start_s = tl.load(start + b * side + s, mask=s < side, other=0.0)
        result_s = tl.load(result + b * side + s, mask=s < side, other=0.0)
        weight_f = tl.load(weight + b * free + f, mask=f < free, other=0.0)
        more = start_s[None, :] + weight_f[:, None] * result_s[None, :]
        total = (total.to(tl.float64) + more).to(tl.float32)
        first = tl.load(grad_first + f, mask=f < free, other=0.0).to(tl.float32)[:, None]
    else:
        first = tl.load(grad_first + s, mask=s < side, other=0.0).to(tl.float32)[None, :]
    constant = tl.load(trace + b) == 0
    total = tl.where(constant, 0.0, total) + first / positions
    inside = (f < free)[:, None] & (s < side)[None, :]
    at = out + b * out_stride_b + f[:, None] * out_free_stride + s[None, :] * out_side_stride
    tl.store(at, total.to(out.dtype.element_ty), mask=inside)
