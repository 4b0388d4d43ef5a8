"""excitation_gates in Triton; the kernels and their napkin are in triton_kernels.py."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ccdn_ops.backends import registry
from ccdn_ops.backends.triton import launcher
from ccdn_ops.backends.triton.launcher import blocks, interpreted, supports
from ccdn_ops.ops.excitation_gates.spec import INPUTS, empty_gradients, in_wide, outputs


class Blocks(NamedTuple):
    """Edges of the blocks: of samples, of channels or units, and of what a product sums over."""

    samples: int
    columns: int
    depth: int


DEVICE_BLOCKS = Blocks(samples=32, columns=32, depth=16)
INTERPRETER_BLOCKS = Blocks(samples=64, columns=128, depth=128)


def _blocks() -> Blocks:
    return INTERPRETER_BLOCKS if interpreted() else DEVICE_BLOCKS


def _forward(
    first: Tensor, second: Tensor | None, *weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    reduce_weight, reduce_bias, expand_weight, expand_bias = weights
    p, o, r, d = reduce_weight.shape
    batch, block, kernels = first.shape[0], _blocks(), launcher.kernels("excitation_gates")
    gates, hidden, scales = outputs(first, second, *weights)
    down = blocks(batch, block.samples)
    launcher.launch(
        kernels.hidden_layer, p * o * down * blocks(r, block.columns),
        first, first if second is None else second, reduce_weight, reduce_bias, hidden,
        batch, p, o, d, r, BLOCK_B=block.samples, BLOCK_R=block.columns, BLOCK_D=block.depth,
    )  # fmt: skip
    launcher.launch(
        kernels.gates_layer, p * down * blocks(d, block.columns),
        hidden, expand_weight, expand_bias, gates, scales,
        batch, p, o, d, r, BLOCK_B=block.samples, BLOCK_D=block.columns, BLOCK_R=block.depth,
    )  # fmt: skip
    return gates, hidden, scales


def _backward(grad_gates: Tensor, *arguments: Any) -> tuple[Tensor | None, ...]:
    inputs, (hidden, scales) = arguments[:INPUTS], arguments[INPUTS:]
    first, second, reduce_weight, _, expand_weight, _ = inputs
    p, o, r, d = reduce_weight.shape
    batch, block, kernels = first.shape[0], _blocks(), launcher.kernels("excitation_gates")
    grads = empty_gradients(*inputs)
    grad_first, grad_second, *grad_weights = grads
    grad_hidden = torch.empty_like(hidden)
    down, sizes = blocks(batch, block.samples), (batch, p, o, d, r)
    launcher.launch(
        kernels.hidden_gradient, p * o * down * blocks(r, block.columns),
        grad_gates, scales, hidden, expand_weight, grad_hidden, *sizes,
        BLOCK_B=block.samples, BLOCK_R=block.columns, BLOCK_D=block.depth,
    )  # fmt: skip
    launcher.launch(
        kernels.squeeze_gradient, o * down * blocks(d, block.columns),
        grad_hidden, reduce_weight, grad_first, grad_first if grad_second is None else grad_second,
        *sizes, BLOCK_B=block.samples, BLOCK_D=block.columns, BLOCK_R=block.depth,
    )  # fmt: skip
    launcher.launch(
        kernels.weight_gradients, p * o * blocks(d, block.columns) * blocks(r, block.columns),
        grad_gates, scales, hidden, grad_hidden, first, first if second is None else second,
        *grad_weights, *sizes,
        BLOCK_D=block.columns, BLOCK_R=block.columns, BLOCK_B=block.depth, num_warps=8,
    )  # fmt: skip
    return grads


registry.register(
    "excitation_gates",
    backend="triton",
    forward=in_wide(_forward),
    backward=in_wide(_backward),
    supports=supports,
)
