"""The Triton kernels of symmetric matrices: of features, of gradients, and times features.

Napkin, for one sample (D, N) of s bytes a number: `gram` reads D N s bytes, writes D^2 s and takes
D^2 N multiply-adds where only half of the tiles are computed. In bf16 at D = 256, N = 1024 that is
0.66 MB, 0.20 us of an H100's memory (3.35 TB/s), and 0.13 GFLOP for the whole or 0.08 for ten of
sixteen 64 x 64 tiles: 0.09 us of its dense bf16 rate (990 TFLOP/s), so memory bounds it; in
float32, three TF32 products of 495 TFLOP/s, 0.5 us: there arithmetic bounds it. Each tile row reads
x again, D / 64 times in all, from L2. `multiply` reads a D x D matrix and the features, writes
features and takes 2 D^2 N multiply-adds, every one needed: bounded by arithmetic in float32.

Precision: float32 operands are multiplied in three TF32 terms, and every slice of BLOCK_K starts
from zero and is added in float32, because the accumulators of tensor cores round towards zero.
Only a product of operands rounded to bfloat16 continues in them: so does its result round.

Matrices are stored as rows (PANEL = 0), as the upper triangle row by row (PANEL = -1), or in
panels of PANEL columns, the last filled with zeros: panel after panel, each n rows
(newton_schulz_plan.py). Samples and offsets are int64.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl

from ccdn_ops.backends.triton.features_kernels import load_features


@triton.jit
def product(left, right, PRODUCT: tl.constexpr):
    """left right: PRODUCT is what tl.dot calls input_precision, or "bf16", operands rounded to it.

    "bf16 rounded" is the same in float32 arithmetic, for the interpreter.
    """
    if PRODUCT == "bf16":
        found = tl.dot(left.to(tl.bfloat16), right.to(tl.bfloat16))
    elif PRODUCT == "bf16 rounded":
        left = left.to(tl.bfloat16).to(tl.float32)
        found = tl.dot(left, right.to(tl.bfloat16).to(tl.float32), input_precision="ieee")
    else:
        found = tl.dot(left, right, input_precision=PRODUCT)
    return found


@triton.jit
def place(i, j, n, PANEL: tl.constexpr):
    """Where the entries i x j of an n x n matrix are."""
    # One return: what follows a return in a branch is compiled too, with a division by PANEL = 0.
    if PANEL == 0:
        found = i[:, None] * n + j[None, :]
    elif PANEL == -1:
        found = i[:, None] * (2 * n - 1 - i[:, None]) // 2 + j[None, :]
    else:
        found = (j // PANEL)[None, :] * n * PANEL + (i[:, None] * PANEL + (j % PANEL)[None, :])
    return found


@triton.jit
def room(i, j, n, PANEL: tl.constexpr):
    """Whether there is a place for entries i x j."""
    if PANEL == 0:
        found = (i < n)[:, None] & (j < n)[None, :]
    elif PANEL == -1:
        found = (i[:, None] <= j[None, :]) & (j < n)[None, :]
    else:
        found = (i < n)[:, None] & (j < tl.cdiv(n, PANEL) * PANEL)[None, :]
    return found


@triton.jit
def lower_tile(pid, n, BLOCK: tl.constexpr):
    """The sample of a program, and its tile of the lower triangle: (0, 0), (1, 0), (1, 1), ..."""
    across = tl.cdiv(n, BLOCK)
    tiles = across * (across + 1) // 2
    tile = pid % tiles
    row = ((tl.sqrt((8 * tile + 1).to(tl.float32)) - 1.0) * 0.5).to(tl.int32)
    row = tl.where(row * (row + 1) // 2 > tile, row - 1, row)  # where the root was rounded
    row = tl.where((row + 1) * (row + 2) // 2 <= tile, row + 1, row)
    column = tile - row * (row + 1) // 2
    return (pid // tiles).to(tl.int64), row.to(tl.int64), column.to(tl.int64)


@triton.jit
def store_symmetric(out, total, tile_i, tile_j, n, BLOCK: tl.constexpr, PANEL: tl.constexpr):
    """A tile of the lower triangle and its mirror image; a diagonal one is made symmetric."""
    i = tile_i * BLOCK + tl.arange(0, BLOCK).to(tl.int64)
    j = tile_j * BLOCK + tl.arange(0, BLOCK).to(tl.int64)
    inside = (i < n)[:, None] & (j < n)[None, :]
    total = tl.where(inside, total, 0.0)
    turned = tl.trans(total)
    if tile_i == tile_j:
        total = tl.where(i[:, None] >= j[None, :], total, turned)
        turned = total
    if PANEL != -1:
        value = total.to(out.dtype.element_ty)
        tl.store(out + place(i, j, n, PANEL), value, mask=room(i, j, n, PANEL))
    if (PANEL == -1) | (tile_i != tile_j):
        value = turned.to(out.dtype.element_ty)
        tl.store(out + place(j, i, n, PANEL), value, mask=room(j, i, n, PANEL))


@triton.jit
def gram(
    left, left_mean, left_rest, right, right_mean, right_rest, scale, out, side, free, channels,
    left_stride_b, left_side_stride, left_free_stride,
    right_stride_b, right_side_stride, right_free_stride, out_stride_b,
    LEFT_MEAN: tl.constexpr, RIGHT_MEAN: tl.constexpr, WIDE: tl.constexpr, PANEL: tl.constexpr,
    PRODUCT: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """out (side x side) = scale (B,) L R^T, symmetric, with L and R features seen as side x free.

    A program for each tile of the lower triangle. A sample of scale 0 is 0. WIDE: in float64.
    """
    b, tile_i, tile_j = lower_tile(tl.program_id(0), side, BLOCK)
    i = tile_i * BLOCK + tl.arange(0, BLOCK).to(tl.int64)
    j = tile_j * BLOCK + tl.arange(0, BLOCK).to(tl.int64)
    left += b * left_stride_b
    right += b * right_stride_b
    left_mean += b * channels
    left_rest += b * channels
    right_mean += b * channels
    right_rest += b * channels
    total = tl.zeros([BLOCK, BLOCK], tl.float64 if WIDE else tl.float32)
    for k0 in range(0, free, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K).to(tl.int64)
        lines = load_features(
            left, left_mean, left_rest, i, k, side, free,
            left_side_stride, left_free_stride, LEFT_MEAN,
        )  # fmt: skip
        others = load_features(
            right, right_mean, right_rest, j, k, side, free,
            right_side_stride, right_free_stride, RIGHT_MEAN,
        )  # fmt: skip
        if WIDE:
            lines = lines.to(tl.float64)
            others = others.to(tl.float64)
        total += product(lines, tl.trans(others), PRODUCT)
    factor = tl.load(scale + b)
    total = tl.where(factor == 0, 0.0, total * factor.to(total.dtype))
    store_symmetric(out + b * out_stride_b, total, tile_i, tile_j, side, BLOCK, PANEL)


@triton.jit
def symmetrise(
    matrix, scale, out, n, out_stride_b,
    SCALED: tl.constexpr, ROWS: tl.constexpr, PANEL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out = (G + G^T) / 2 of G (B, n, n) or, with ROWS = -1, of what its upper triangle stands for.

    A program for each tile of the lower triangle. With SCALED times scale (B,), where 0 gives 0.
    """
    b, tile_i, tile_j = lower_tile(tl.program_id(0), n, BLOCK)
    i = tile_i * BLOCK + tl.arange(0, BLOCK).to(tl.int64)
    j = tile_j * BLOCK + tl.arange(0, BLOCK).to(tl.int64)
    wide = out.dtype.element_ty
    if ROWS == 0:
        matrix += b * n * n
    else:
        matrix += b * n * (n + 1) // 2
    inside = room(j, i, n, ROWS) & (j < n)[:, None] & (i < n)[None, :]
    total = tl.trans(tl.load(matrix + place(j, i, n, ROWS), mask=inside, other=0.0).to(wide))
    if ROWS == 0:
        lower = tl.load(matrix + place(i, j, n, ROWS), mask=tl.trans(inside), other=0.0)
        total = (total + lower.to(wide)) / 2
    else:
        total = tl.where(i[:, None] == j[None, :], total, total / 2)
    if SCALED:
        factor = tl.load(scale + b)
        total = tl.where(factor == 0, 0.0, total * factor.to(wide))
    store_symmetric(out + b * out_stride_b, total, tile_i, tile_j, n, BLOCK, PANEL)


@triton.jit
def multiply(
    first, second, x, x_mean, x_rest, y, y_mean, y_rest, factors, out, side, free, channels,
    matrix_stride_b, second_stride_b, x_stride_b, x_side_stride, x_free_stride,
    y_stride_b, y_side_stride, y_free_stride, out_stride_b, out_side_stride, out_free_stride,
    X_MEAN: tl.constexpr, Y_MEAN: tl.constexpr, TWO: tl.constexpr, WIDE: tl.constexpr,
    PANEL: tl.constexpr, PRODUCT: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """out (side x free) = f_0 M X + f_1 X, and with TWO + f_2 M' Y + f_3 Y.

    M and M' are symmetric and in panels, X and Y features seen as side x free; factors (B, 4). A
    sample whose factors 0 and 1 are 0 is 0.
    """
    down = tl.cdiv(side, BLOCK)
    across = tl.cdiv(free, BLOCK)
    pid = tl.program_id(0)
    b = (pid // (down * across)).to(tl.int64)
    i = (pid // across % down).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    f = (pid % across).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    first += b * matrix_stride_b
    x += b * x_stride_b
    x_mean += b * channels
    x_rest += b * channels
    factors += b * 4
    total = multiplied(
        first, x, x_mean, x_rest, factors, i, f, side, free, x_side_stride, x_free_stride,
        X_MEAN, WIDE, PANEL, PRODUCT, BLOCK, BLOCK_K,
    )  # fmt: skip
    if TWO:
        second += b * second_stride_b
        y += b * y_stride_b
        y_mean += b * channels
        y_rest += b * channels
        total += multiplied(
            second, y, y_mean, y_rest, factors + 2, i, f, side, free, y_side_stride, y_free_stride,
            Y_MEAN, WIDE, PANEL, PRODUCT, BLOCK, BLOCK_K,
        )  # fmt: skip
    nothing = (tl.load(factors) == 0) & (tl.load(factors + 1) == 0)
    total = tl.where(nothing, 0.0, total)
    inside = (i < side)[:, None] & (f < free)[None, :]
    at = out + b * out_stride_b + i[:, None] * out_side_stride + f[None, :] * out_free_stride
    tl.store(at, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def multiplied(
    matrix, x, mean, rest, factors, i, f, side, free, side_stride, free_stride,
    MEAN: tl.constexpr, WIDE: tl.constexpr, PANEL: tl.constexpr, PRODUCT: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """f_0 M X + f_1 X at rows i and columns f."""
    total = tl.zeros([BLOCK, BLOCK], tl.float64 if WIDE else tl.float32)
    for k0 in range(0, side, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K).to(tl.int64)
        left = tl.load(matrix + place(i, k, side, PANEL), mask=room(i, k, side, PANEL), other=0.0)
        right = load_features(x, mean, rest, k, f, side, free, side_stride, free_stride, MEAN)
        if WIDE:
            right = right.to(tl.float64)
        total += product(left, right, PRODUCT)
    own = load_features(x, mean, rest, i, f, side, free, side_stride, free_stride, MEAN)
    scale = tl.load(factors).to(total.dtype)
    return scale * total + tl.load(factors + 1).to(total.dtype) * own.to(total.dtype)
