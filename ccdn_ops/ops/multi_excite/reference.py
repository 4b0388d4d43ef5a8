"""multi_excite in plain PyTorch (eq. 4)."""

from __future__ import annotations

import torch
from torch import Tensor

from ccdn_ops.backends import registry
from ccdn_ops.layout import empty_maps
from ccdn_ops.ops.multi_excite.spec import wide_gates
from ccdn_ops.precision import accumulation_dtype, no_autocast


def multi_excite(x: Tensor, gates: Tensor) -> Tensor:
    """x (B, D, H, W) times each of the gates (B, P, D), differentiable by autograd.

    (B, P, D, H, W) in x's dtype, computed in float64 for float64 and in float32 for the others.
    """
    wide = accumulation_dtype(x.dtype)
    with no_autocast(x.device.type):
        out = x.unsqueeze(1) * gates.to(wide)[..., None, None]
        return out.to(x.dtype)


def _forward(x: Tensor, gates: Tensor) -> Tensor:
    out = empty_maps(x, *gates.shape[:2])
    # An exported program calls this with gradients enabled, where torch refuses out=.
    with torch.no_grad():
        return torch.mul(x.unsqueeze(1), gates[..., None, None], out=out)


def _backward(grad_out: Tensor, x: Tensor, gates: Tensor) -> tuple[Tensor, Tensor]:
    grad_x = (grad_out * gates[..., None, None]).sum(1)
    grad_gates = (grad_out.to(gates.dtype) * x.unsqueeze(1)).sum((3, 4))
    return empty_maps(x, x.shape[0]).copy_(grad_x), grad_gates


registry.register(
    "multi_excite",
    backend="reference",
    forward=wide_gates(_forward),
    backward=wide_gates(_backward),
)
