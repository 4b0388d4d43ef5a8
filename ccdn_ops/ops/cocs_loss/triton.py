"""cocs_loss in Triton; the kernels and their napkin are in triton_kernels.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ccdn_ops.backends import registry
from ccdn_ops.backends.triton import launcher
from ccdn_ops.backends.triton.launcher import blocks, interpreted, power_of_two, supports


class Blocks(NamedTuple):
    samples: int
    channels: int


DEVICE_BLOCKS = Blocks(samples=16, channels=64)
INTERPRETER_BLOCKS = Blocks(samples=64, channels=512)


def _blocks() -> Blocks:
    return INTERPRETER_BLOCKS if interpreted() else DEVICE_BLOCKS


class _Levels(NamedTuple):
    """The sizes of all levels, each a tuple for the kernels."""

    batches: tuple[int, ...]
    excitations: tuple[int, ...]
    channels: tuple[int, ...]

    @property
    def chunks(self) -> tuple[int, ...]:
        return tuple(blocks(batch, _blocks().samples) for batch in self.batches)

    @property
    def programs(self) -> tuple[int, int]:
        """How many there are for the chunks of the largest level, and how many levels."""
        pieces = (c * p for c, p in zip(self.chunks, self.excitations, strict=True))
        return max(pieces), len(self.batches)

    def tiles(self) -> dict[str, int]:
        """The blocks of the kernels that take a level at once."""
        rows = min(power_of_two(max(self.excitations)), 4)
        return {"BLOCK_P": rows, "BLOCK_D": _blocks().channels}

    def split(self, flat: Tensor) -> tuple[Tensor, ...]:
        """(P D,) of each level."""
        sizes = [p * d for p, d in zip(self.excitations, self.channels, strict=True)]
        return flat.split(sizes)


def _levels(features: Sequence[Tensor]) -> _Levels:
    batches, excitations, channels = zip(*(x.shape for x in features), strict=True)
    return _Levels(batches, excitations, channels)


def _strides(tensors: Sequence[Tensor]) -> tuple[tuple[int, ...], ...]:
    """Of the samples, the excitations and the channels, for each level."""
    return tuple(zip(*(x.stride() for x in tensors), strict=True))


def _forward(features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    levels, x, block = _levels(features), features[0], _blocks()
    kernels = launcher.kernels("cocs_loss")
    sizes = zip(levels.chunks, levels.excitations, levels.channels, strict=True)
    parts = tuple(x.new_empty(c, p, d, dtype=torch.float64) for c, p, d in sizes)
    losses = x.new_empty(len(features))
    sums = x.new_empty(sum(f.shape[1] * f.shape[2] for f in features), dtype=torch.float32)
    launcher.launch(
        kernels.unit_sums, levels.programs, tuple(features), parts, *levels, *_strides(features),
        BLOCK_B=block.samples, BLOCK_D=block.channels, enable_fp_fusion=False,
    )  # fmt: skip
    launcher.launch(
        kernels.level_losses, len(features), parts, levels.split(sums), losses, levels.chunks,
        levels.excitations, levels.channels, **levels.tiles(),
    )  # fmt: skip
    return losses, sums


def _backward(grad_losses: Tensor, features: Sequence[Tensor], sums: Tensor) -> list[Tensor]:
    levels, x, block = _levels(features), features[0], _blocks()
    kernels = launcher.kernels("cocs_loss")
    qs = tuple(x.new_empty(p, p, dtype=torch.float64) for p in levels.excitations)
    sizes = zip(levels.excitations, levels.channels, strict=True)
    gradients = tuple(x.new_empty(p, d, dtype=torch.float64) for p, d in sizes)
    grads = [torch.empty_like(level) for level in features]
    launcher.launch(
        kernels.sums_gradients, len(features), grad_losses, levels.split(sums), qs, gradients,
        levels.excitations, levels.channels, **levels.tiles(),
    )  # fmt: skip
    launcher.launch(
        kernels.features_gradients, levels.programs, tuple(features), gradients, tuple(grads),
        *levels, *_strides(features), *_strides(grads),
        BLOCK_B=block.samples, BLOCK_D=block.channels,
    )  # fmt: skip
    return grads


registry.register(
    "cocs_loss", backend="triton", forward=_forward, backward=_backward, supports=supports
)
