"""second_order_squeeze in plain PyTorch (eq. 2)."""

from __future__ import annotations

from torch import Tensor

from ccdn_ops.ops.dual_squeeze.reference import dual_squeeze


def second_order_squeeze(x: Tensor, iterations: int = 5) -> Tensor:
    """kappa_nd of eq. 2 for x (B, D, H, W) or (B, D, N), differentiable by autograd."""
    return dual_squeeze(x, iterations)[1]
