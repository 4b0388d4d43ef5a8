"""covariance_pool in plain PyTorch (eq. 2)."""

from __future__ import annotations

import torch
from torch import Tensor

from ccdn_ops.backends import registry
from ccdn_ops.backends.reference.autograd import gradients
from ccdn_ops.precision import accumulation_dtype, no_autocast


def covariance_pool(x: Tensor) -> Tensor:
    """S = Xc Xc^T / N of x (B, D, H, W) or (B, D, N) -> (B, D, D), differentiable by autograd.

    Computed in float64 for float64 and in float32 for the others, under autocast too.
    """
    with no_autocast(x.device.type):
        return covariance(x.flatten(2))[0].to(x.dtype)


def covariance(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """S and its trace, both 0 for constant samples, and Xc of x (B, D, N), not rounded to x's."""
    wide = x.to(accumulation_dtype(x.dtype))
    positions = x.shape[2]
    centred = wide - wide.mean(2, keepdim=True)  # [B, D, N]
    found = centred @ centred.mT / positions  # [B, D, D]
    trace = found.diagonal(dim1=1, dim2=2).sum(1)  # [B]

    # Where all deviation from the mean is rounding.
    rounding = 16 * torch.finfo(wide.dtype).eps
    constant = trace.isfinite() & (trace <= rounding**2 * wide.square().sum((1, 2)) / positions)
    found = torch.where(constant[:, None, None], torch.zeros_like(found), found)
    return found, torch.where(constant, torch.zeros_like(trace), trace), centred


def _forward(x: Tensor) -> tuple[Tensor, Tensor]:
    found, trace, _ = covariance(x)
    return found.to(x.dtype), trace


def _backward(grad: Tensor, x: Tensor, trace: Tensor) -> Tensor:
    (found,) = gradients(lambda x: covariance(x)[0].to(x.dtype), [x], [grad])
    return torch.empty_like(x).copy_(found)


registry.register("covariance_pool", backend="reference", forward=_forward, backward=_backward)
