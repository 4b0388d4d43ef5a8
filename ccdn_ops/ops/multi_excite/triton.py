"""multi_excite in Triton; the kernels and their napkin are in triton_kernels.py."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ccdn_ops.backends import registry
from ccdn_ops.backends.triton import launcher
from ccdn_ops.backends.triton.launcher import blocks, interpreted, power_of_two, supports
from ccdn_ops.layout import empty_maps, is_channels_last
from ccdn_ops.ops.multi_excite.spec import wide_gates


class Blocks(NamedTuple):
    """The longest tile of each memory order, (channels, positions), and how many entries it has."""

    along_positions: int
    along_channels: int
    entries: int


DEVICE_BLOCKS = Blocks(along_positions=256, along_channels=64, entries=2048)
INTERPRETER_BLOCKS = Blocks(along_positions=1024, along_channels=1024, entries=1 << 16)


def _tile(x: Tensor) -> dict[str, int]:
    """BLOCK_D and BLOCK_N for x (B, D, H, W): long where the memory is."""
    block = INTERPRETER_BLOCKS if interpreted() else DEVICE_BLOCKS
    channels, positions = power_of_two(x.shape[1]), power_of_two(x.shape[2] * x.shape[3])
    if is_channels_last(x):
        d = min(block.along_channels, channels)
        return {"BLOCK_D": d, "BLOCK_N": min(block.entries // d, positions)}
    n = min(block.along_positions, positions)
    return {"BLOCK_D": min(block.entries // n, channels), "BLOCK_N": n}


def _programs(x: Tensor, tile: dict[str, int]) -> tuple[int, int]:
    """How many programs, and how many of them lie along the positions of a sample."""
    batch, channels, height, width = x.shape
    along = blocks(height * width, tile["BLOCK_N"])
    return batch * blocks(channels, tile["BLOCK_D"]) * along, along


def _forward(x: Tensor, gates: Tensor) -> Tensor:
    out = empty_maps(x, *gates.shape[:2])
    flat, maps = x.flatten(2), out.flatten(3)  # x is copied where H and W have no common stride
    tile = _tile(x)
    launcher.launch(
        launcher.kernels("multi_excite").excite, _programs(x, tile)[0], flat, gates, out,
        gates.shape[1], *flat.shape[1:], flat.shape[1] * flat.shape[2], *flat.stride(),
        *maps.stride()[2:], **tile,
    )  # fmt: skip
    return out


def _backward(grad_out: Tensor, x: Tensor, gates: Tensor) -> tuple[Tensor, Tensor]:
    grad_x = empty_maps(x, x.shape[0])
    flat, grads = x.flatten(2), grad_out.flatten(3)
    tile = _tile(x)
    programs, along = _programs(x, tile)
    sums = gates.new_empty(along, *gates.shape)
    launcher.launch(
        launcher.kernels("multi_excite").excite_gradient, programs, grads, flat, gates, grad_x,
        sums, flat.shape[0], gates.shape[1], *flat.shape[1:], *grads.stride(), *flat.stride(),
        *grad_x.flatten(2).stride(), **tile,
    )  # fmt: skip
    return grad_x, sums[0] if along == 1 else sums.sum(0)


registry.register(
    "multi_excite",
    backend="triton",
    forward=wide_gates(_forward),
    backward=wide_gates(_backward),
    supports=supports,
)
