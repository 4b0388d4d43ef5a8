"""covariance_pool in plain PyTorch: one batched product each way.

S = X X^T / N - m m^T would save the centred copy, but cancels where the mean is large.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def covariance_pool(x: Tensor) -> Tensor:
    """The covariance (B, D, D) of x (B, D, N), differentiable once."""
    return _BestEager.apply(x)


def covariance(x: Tensor) -> tuple[Tensor, Tensor]:
    """S (B, D, D) and Xc of x (B, D, N)."""
    centred = x - x.mean(2, keepdim=True)
    empty = x.new_empty(())
    found = torch.baddbmm(empty, centred, centred.mT, beta=0, alpha=1 / x.shape[2])
    return found, centred


def features_gradient(grad: Tensor, centred: Tensor) -> Tensor:
    """That of S, (B, D, D), made that of x: its rows have mean 0 by themselves."""
    both = grad + grad.mT
    return torch.baddbmm(grad.new_empty(()), both, centred, beta=0, alpha=1 / centred.shape[2])


class _BestEager(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        found, centred = covariance(x)
        ctx.save_for_backward(centred)
        return found

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return features_gradient(grad, *ctx.saved_tensors)
