"""covariance_pool in Triton, in the kernels of backends/triton/matrices.py.

Forward, half of the tiles of Xc Xc^T / N; backward, (G + G^T) Xc / N, whose rows sum to zero
because those of Xc do.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ccdn_ops.backends import registry
from ccdn_ops.backends.triton import features
from ccdn_ops.backends.triton.launcher import supports
from ccdn_ops.backends.triton.matrices import (
    centred,
    empty_matrix,
    gram,
    multiply,
    or_zero,
    per_sample,
    plain,
    symmetrise,
)


def _forward(x: Tensor) -> tuple[Tensor, Tensor]:
    batch, channels, positions = x.shape
    mean, rest, squares = features.means(x)
    trace = features.traces(mean, squares, positions)
    covariance = x.new_empty(batch, channels, channels)
    xc = centred(x, mean, rest, by_positions=False)
    scale = or_zero(trace, torch.full_like(trace, 1 / positions, dtype=torch.float64))
    gram(xc, xc, scale, covariance, channels, positions, panel=0, rounded=True)
    return covariance, trace


def _backward(grad: Tensor, x: Tensor, trace: Tensor) -> Tensor:
    mean, rest, _ = features.means(x)
    xc, grad_x = centred(x, mean, rest, by_positions=False), torch.empty_like(x)
    matrix = empty_matrix(x, x.shape[1], torch.float32)
    symmetrise(grad, matrix)
    scale = or_zero(trace, torch.full_like(trace, 2 / x.shape[2], dtype=torch.float64))
    multiply((matrix, xc), None, per_sample(trace, scale, 0.0, 0.0, 0.0), plain(grad_x, False))
    return grad_x


registry.register(
    "covariance_pool", backend="triton", forward=_forward, backward=_backward, supports=supports
)
