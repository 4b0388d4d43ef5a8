"""Products of symmetric matrices and features, for the operators that pool covariances.

The kernels and their napkin are in matrices_kernels.py. `gram` makes a symmetric matrix of
features, `symmetrise` one of any matrix, and `multiply` multiplies such matrices by features.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ccdn_ops.backends.triton import launcher
from ccdn_ops.backends.triton.launcher import blocks, interpreted

PANEL = 32  # columns of a panel of float32: newton_schulz_plan.py; ours of float64 have as many


class Blocks(NamedTuple):
    """Edges of a product's tiles, how much of its sum is done at a time, and warps for a tile."""

    tile: int
    depth: int
    warps: int
    wide: int  # the tile of a float64 product


# A 64 x 64 tile of three TF32 terms, 32 deep, needs eight warps on sm_90; on sm_80, whose products
# have all of their operands in registers, and on sm_100 it spills, and is 16 deep.
DEVICE_BLOCKS = {
    8: Blocks(tile=64, depth=16, warps=8, wide=32),
    9: Blocks(tile=64, depth=32, warps=8, wide=32),
    10: Blocks(tile=64, depth=16, warps=8, wide=32),
}
INTERPRETER_BLOCKS = Blocks(tile=256, depth=256, warps=4, wide=256)


def blocks_for(x: Tensor) -> Blocks:
    """Those of the device of x; one that is newer than all gets the last."""
    if interpreted():
        return INTERPRETER_BLOCKS
    return DEVICE_BLOCKS[min(launcher.architecture(x), max(DEVICE_BLOCKS))]


class Operand(NamedTuple):
    """Features seen as side x free: x (B, ., .), its strides, and where the mean belongs."""

    x: Tensor
    strides: tuple[int, int, int]  # sample, side, free
    mean: Tensor
    rest: Tensor
    mean_of: str  # "row" (the side), "column" (the free axis) or "none"


def centred(x: Tensor, mean: Tensor, rest: Tensor, by_positions: bool) -> Operand:
    """Xc, D x N, or N x D by positions."""
    b, d, n = x.stride()
    return Operand(
        x, (b, n, d) if by_positions else (b, d, n), mean, rest, "column" if by_positions else "row"
    )


def plain(x: Tensor, by_positions: bool) -> Operand:
    """x (B, D, N) as it is, D x N, or N x D by positions."""
    b, d, n = x.stride()
    return Operand(x, (b, n, d) if by_positions else (b, d, n), x, x, "none")


def tile_of(x: Tensor, wide: bool) -> dict[str, int]:
    """BLOCK, the edge of a tile, and num_warps."""
    block = blocks_for(x)
    return {"BLOCK": block.wide if wide else block.tile, "num_warps": 4 if wide else block.warps}


def product_of(x: Tensor, wide: bool) -> dict[str, int]:
    """And BLOCK_K, how deep a slice of a product is."""
    return {**tile_of(x, wide), "BLOCK_K": blocks_for(x).depth}


def half(n: int, tile: int) -> int:
    """How many tiles the lower triangle has."""
    across = blocks(n, tile)
    return across * (across + 1) // 2


def precision(dtype: torch.dtype, rounded: bool = False) -> str:
    """How float32 operands are multiplied: exactly but for float32 rounding; see `product`.

    `rounded`: for a result of this dtype, so that operands rounded to bfloat16 are good enough.
    """
    if dtype == torch.float64:
        return "ieee"
    if rounded and dtype == torch.bfloat16:
        return "bf16 rounded" if interpreted() else "bf16"
    return "tf32x3"


def per_sample(like: Tensor, *values: Tensor | float) -> Tensor:
    """(B, len(values)) float64: those of each sample, without a copy from the host."""
    found = like.new_empty(len(like), len(values), dtype=torch.float64)
    for column, value in zip(found.unbind(1), values, strict=True):
        if isinstance(value, Tensor):
            column.copy_(value.detach())  # of an input that may be a parameter
        else:
            column.fill_(value)
    return found


def or_zero(trace: Tensor, value: Tensor) -> Tensor:
    """value, 0 where the trace is, and NaN where it is infinite: what overflows must show."""
    return torch.where(trace == 0, 0.0, value + (trace - trace))


def gram(
    left: Operand,
    right: Operand,
    scale: Tensor,
    out: Tensor,
    side: int,
    free: int,
    *,
    panel: int,
    wide: bool = False,
    rounded: bool = False,
) -> None:
    """out = scale (B,) L R^T, side x side and symmetric."""
    tile = product_of(out, wide)
    product = precision(torch.float64 if wide else left.x.dtype, rounded)
    launcher.launch(
        launcher.kernels("matrices").gram, len(out) * half(side, tile["BLOCK"]),
        left.x, left.mean, left.rest, right.x, right.mean, right.rest, scale, out,
        side, free, left.mean.shape[1], *left.strides, *right.strides, out.stride(0),
        LEFT_MEAN=left.mean_of, RIGHT_MEAN=right.mean_of, WIDE=wide, PANEL=panel,
        PRODUCT=product, **tile,
    )  # fmt: skip


def empty_matrix(like: Tensor, n: int, dtype: torch.dtype) -> Tensor:
    """A matrix of each sample, (B, panels, n, PANEL)."""
    return like.new_empty(len(like), blocks(n, PANEL), n, PANEL, dtype=dtype)


def symmetrise(
    matrix: Tensor, out: Tensor, *, triangle: bool = False, scale: Tensor | None = None
) -> None:
    """out, in panels, = (G + G^T) / 2 of rows, or of what an upper triangle stands for; scaled."""
    n, tile = out.shape[-2], tile_of(out, out.dtype == torch.float64)
    launcher.launch(
        launcher.kernels("matrices").symmetrise, len(out) * half(n, tile["BLOCK"]),
        matrix, matrix if scale is None else scale, out, n, out.stride(0),
        SCALED=scale is not None, ROWS=-1 if triangle else 0, PANEL=PANEL, **tile,
    )  # fmt: skip


def multiply(
    first: tuple[Tensor, Operand],
    second: tuple[Tensor, Operand] | None,
    factors: Tensor,
    out: Operand,
) -> None:
    """out = f_0 M X + f_1 X, and with a second pair + f_2 M' Y + f_3 Y."""
    (m, x), (other, y) = first, second or first
    side, wide = m.shape[-2], m.dtype == torch.float64
    free = x.x.shape[1] * x.x.shape[2] // side
    tile = product_of(m, wide)
    launcher.launch(
        launcher.kernels("matrices").multiply,
        len(m) * blocks(side, tile["BLOCK"]) * blocks(free, tile["BLOCK"]),
        m, other, x.x, x.mean, x.rest, y.x, y.mean, y.rest, factors, out.x,
        side, free, x.mean.shape[1], m.stride(0), other.stride(0), *x.strides, *y.strides,
        *out.strides, X_MEAN=x.mean_of, Y_MEAN=y.mean_of, TWO=second is not None, WIDE=wide,
        PANEL=PANEL, PRODUCT=precision(m.dtype), **tile,
    )  # fmt: skip
