"""Means and traces of features (B, D, N), for the operators that centre them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ccdn_ops.backends.triton import launcher
from ccdn_ops.backends.triton.launcher import blocks, interpreted


class Blocks(NamedTuple):
    channels: int
    positions: int


DEVICE_BLOCKS = Blocks(channels=16, positions=64)
INTERPRETER_BLOCKS = Blocks(channels=64, positions=256)


def means(x: Tensor, first: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """The mean of each channel, what its float32 value rounds off, and the centred squares' sum.

    (B, D) each, float32 but for the squares, which are float64. first gets the mean in x's dtype.
    """
    mean = x.new_empty(x.shape[:2], dtype=torch.float32)
    rest, squares = torch.empty_like(mean), torch.empty_like(mean, dtype=torch.float64)
    _channel_means(x, mean, rest, mean if first is None else first, squares, mean_known=False)
    return mean, rest, squares


def rest_of(x: Tensor, mean: Tensor) -> Tensor:
    """What the float32 mean (B, D) rounds off."""
    rest = torch.empty_like(mean)
    _channel_means(x, mean, rest, mean, mean, mean_known=True)
    return rest


def traces(mean: Tensor, squares: Tensor, positions: int) -> Tensor:
    """(B,) float32, tr S, and 0 for a constant sample."""
    found = mean.new_empty(len(mean))
    launcher.launch(
        launcher.kernels("features").sample_traces, len(mean), mean, squares, found,
        mean.shape[1], positions, BLOCK=256,
    )  # fmt: skip
    return found


def _channel_means(
    x: Tensor, mean: Tensor, rest: Tensor, first: Tensor, squares: Tensor, mean_known: bool
) -> None:
    block = INTERPRETER_BLOCKS if interpreted() else DEVICE_BLOCKS
    batch, channels, positions = x.shape
    launcher.launch(
        launcher.kernels("features").channel_means, batch * blocks(channels, block.channels),
        x, mean, rest, first, squares, channels, positions, *x.stride(),
        BACKWARD=mean_known, BLOCK_D=block.channels, BLOCK_N=block.positions,
    )  # fmt: skip
