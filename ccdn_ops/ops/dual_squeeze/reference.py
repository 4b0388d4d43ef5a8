"""dual_squeeze as the paper says it: the covariance matrix and the coupled iteration.

The yardstick for the tests and the baseline of the benchmarks, so it stays literal: no polynomial,
no small side, autograd for the gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ccdn_ops.backends import registry
from ccdn_ops.backends.reference.autograd import gradients
from ccdn_ops.plans import smaller_side
from ccdn_ops.precision import accumulation_dtype, no_autocast


def dual_squeeze(x: Tensor, iterations: int = 5) -> tuple[Tensor, Tensor]:
    """kappa_st and kappa_nd of eqs. 1 and 2, differentiable by autograd.

    x (B, D, H, W) or (B, D, N) of any floating dtype -> two (B, D) in that dtype, computed in
    float64 for float64 and in float32 for the others, under autocast too.
    """
    with no_autocast(x.device.type):
        first, second, *_ = squeeze(x.flatten(2), iterations)
        return first, second


def squeeze(x: Tensor, iterations: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """first, second (in x's dtype), mean, trace, centred features of x (B, D, N)."""
    wide = x.to(accumulation_dtype(x.dtype))
    positions = x.shape[2]
    mean = wide.mean(2)  # [B, D]
    centred = wide - mean.unsqueeze(2)  # [B, D, N]
    covariance = centred @ centred.mT / positions  # [B, D, D]
    trace = covariance.diagonal(dim1=1, dim2=2).sum(1)  # [B]

    # Where all deviation from the mean is rounding there is no direction to normalise.
    rounding = 16 * torch.finfo(wide.dtype).eps
    constant = trace.isfinite() & (trace <= rounding**2 * wide.square().sum((1, 2)) / positions)
    safe = torch.where(constant, torch.ones_like(trace), trace)
    root = newton_schulz(covariance / safe[:, None, None], iterations)
    second = safe.sqrt().unsqueeze(1) * root.mean(2)
    second = torch.where(constant.unsqueeze(1), torch.zeros_like(second), second)
    trace = torch.where(constant, torch.zeros_like(trace), trace)
    return mean.to(x.dtype), second.to(x.dtype), mean, trace, centred


def newton_schulz(a: Tensor, iterations: int) -> Tensor:
    """The square root of a (B, D, D), trace 1, after K coupled iterations (iSQRT-COV).

    Y_0 = a, Z_0 = 1;  P = (3 - Z Y) / 2,  Y <- Y P,  Z <- P Z. The first step knows that Z is 1 and
    the last needs no Z, which leaves 3 K - 3 products (1 for K = 1): 12 for K = 5.
    """
    eye3 = 3 * torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    p = 0.5 * (eye3 - a)
    y, z = a @ p, p
    for step in range(1, iterations):
        p = 0.5 * (eye3 - z @ y)
        y = y @ p
        if step < iterations - 1:
            z = p @ z
    return y


def _forward(x: Tensor, iterations: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    first, second, mean, trace, centred = squeeze(x, iterations)
    _, channels, positions = x.shape
    side = smaller_side(channels, positions)
    smaller = centred if side == "channels" else centred.mT
    gram = smaller @ smaller.mT / positions
    return first, second, mean.clone(), trace, gram  # an operator's outputs do not alias


def _backward(
    grad_first: Tensor,
    grad_second: Tensor,
    x: Tensor,
    mean: Tensor,
    trace: Tensor,
    gram: Tensor,
    iterations: int,
) -> Tensor:
    (grad,) = gradients(lambda x: squeeze(x, iterations)[:2], [x], [grad_first, grad_second])
    return torch.empty_like(x).copy_(grad)


registry.register("dual_squeeze", backend="reference", forward=_forward, backward=_backward)
