"""How tensors lie in memory: feature maps in NCHW or channels_last, results that keep the order."""

from __future__ import annotations

from torch import Tensor


def is_aligned(x: Tensor) -> bool:
    """Whether the address is a multiple of the size of an element, which it need not be.

    torch.frombuffer makes other tensors, and C++ may not read a float there.
    """
    return x.data_ptr() % x.itemsize == 0


def is_channels_last(x: Tensor) -> bool:
    """Whether maps (..., D, H, W) have channels innermost; False if they are in both orders."""
    return x.stride(-3) == 1 and not x.is_contiguous()


def empty_maps(x: Tensor, *leading: int) -> Tensor:
    """`(*leading, D, H, W)` of x's dtype, dense, each map in the order of x (..., D, H, W)."""
    d, h, w = x.shape[-3:]
    if not is_channels_last(x):
        return x.new_empty(*leading, d, h, w)
    strides = [1, w * d, d]
    size = h * w * d
    for count in reversed(leading):
        strides.insert(0, size)
        size *= count
    # Not a view of (..., H, W, D): autograd forbids writing into a view that a Function returns.
    return x.new_empty_strided((*leading, d, h, w), strides)


def in_order_of(x: Tensor, maps: Tensor) -> Tensor:
    """`maps` (..., D, H, W), dense in the memory order of x's maps: itself, or a copy."""
    if is_channels_last(x):
        return maps.movedim(-3, -1).contiguous().movedim(-1, -3)
    return maps.contiguous()


def in_lines(x: Tensor) -> tuple[Tensor, int]:
    """x (B, D, H, W) in contiguous lines, and the stride from line to line.

    A line is a channel's positions or, in channels_last, a position's channels. Samples and lines
    may lie anywhere; x is copied only if a line itself has gaps.
    """
    _, _, h, w = x.shape
    if is_channels_last(x):
        if h > 1 and w > 1 and x.stride(2) != w * x.stride(3):
            x = in_order_of(x, x)
        return x, x.stride(3) if w > 1 else x.stride(2)
    if (w > 1 and x.stride(3) != 1) or (h > 1 and x.stride(2) != w):
        x = x.contiguous()
    return x, x.stride(1)
