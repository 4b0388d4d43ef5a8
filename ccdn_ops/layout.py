"""The two memory orders of feature maps, and outputs that keep them."""

from __future__ import annotations

import torch
from torch import Tensor


def is_channels_last(x: Tensor) -> bool:
    """Whether maps (..., D, H, W) have their channels innermost; no where both orders are true."""
    return x.stride(-3) == 1 and not x.is_contiguous()


def empty_maps(x: Tensor, *leading: int) -> Tensor:
    """(*leading, D, H, W) of x's dtype, dense, every map in the memory order of x (..., D, H, W)."""
    d, h, w = x.shape[-3:]
    if is_channels_last(x):
        return x.new_empty(*leading, h, w, d).movedim(-1, -3)
    return x.new_empty(*leading, d, h, w)


def in_order_of(x: Tensor, maps: Tensor) -> Tensor:
    """`maps` (..., D, H, W) dense in the memory order of x's maps: itself, or a copy."""
    if is_channels_last(x):
        return maps.movedim(-3, -1).contiguous().movedim(-1, -3)
    return maps.contiguous()


def rows_of(x: Tensor) -> tuple[Tensor, int] | None:
    """x (B, D, H, W) as its kernels walk it: contiguous lines of positions, or of channels.

    x and the stride from line to line; a copy only where the lines have gaps of their own.
    """
    raise NotImplementedError


def lines(x: Tensor) -> Tensor:
    """x (B, D, H, W), or a copy, with contiguous lines: channels' positions, or the reverse.

    Samples and lines may lie anywhere; the stride from line to line is that of the channels or,
    channels_last, that of W.
    """
    _, d, h, w = x.shape
    if is_channels_last(x):
        uniform = h == 1 or w == 1 or x.stride(2) == w * x.stride(3)
    else:
        uniform = (w == 1 or x.stride(3) == 1) and (h == 1 or x.stride(2) == w)
    return x if uniform else in_order_of(x, x)


__all__ = ["empty_maps", "in_order_of", "is_channels_last", "lines"]
torch  # noqa: B018
