"""Modules over the operators, ready to be put into a network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .ops.checks import check_iterations
from .ops.ctm import ctm


class CTM(nn.Module):
    """Cross-order two-squeeze multi-excitation module (eqs. 1 to 4 of the CCDN paper).

    x (B, D, H, W) -> excited (B, P, D, H, W) and pooled (B, P, D), the GAP of each excited map,
    which COCS takes.

    Args:
        channels: D.
        excitations: P.
        orders: 2 squeezes mean and covariance (CCDN), 1 the mean alone (FCDN).
        reduction: the bottleneck's width is D / reduction, at least 1.
        iterations: Newton-Schulz iterations of the covariance squeeze, 1 to 10.

    Every excitation and order has its own two layers: `reduce_weight` (P, O, D / r, D),
    `reduce_bias` (P, O, D / r), `expand_weight` (P, O, D, D / r), `expand_bias` (P, O, D). Raises
    ValueError for sizes below 1, orders other than 1 and 2, and iterations out of range.
    """

    def __init__(
        self,
        channels: int,
        excitations: int = 4,
        orders: int = 2,
        reduction: int = 4,
        iterations: int = 5,
    ) -> None:
        super().__init__()
        if min(channels, excitations, reduction) < 1:
            raise ValueError(
                "channels, excitations and reduction must be at least 1, found "
                f"{channels}, {excitations}, {reduction}"
            )
        if orders not in (1, 2):
            raise ValueError(f"orders must be 1 or 2, found {orders}")
        check_iterations("nn.CTM", iterations)
        hidden = max(channels // reduction, 1)
        self.channels, self.excitations, self.orders = channels, excitations, orders
        self.iterations = iterations
        self.reduce_weight = nn.Parameter(torch.empty(excitations, orders, hidden, channels))
        self.reduce_bias = nn.Parameter(torch.empty(excitations, orders, hidden))
        self.expand_weight = nn.Parameter(torch.empty(excitations, orders, channels, hidden))
        self.expand_bias = nn.Parameter(torch.empty(excitations, orders, channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """He initialisation before the ReLU, LeCun before the sigmoid, zero biases."""
        hidden = self.reduce_bias.shape[-1]
        nn.init.normal_(self.reduce_weight, std=(2.0 / self.channels) ** 0.5)
        nn.init.normal_(self.expand_weight, std=(1.0 / hidden) ** 0.5)
        nn.init.zeros_(self.reduce_bias)
        nn.init.zeros_(self.expand_bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        weights = (self.reduce_weight, self.reduce_bias, self.expand_weight, self.expand_bias)
        return ctm(x, weights, self.iterations)

    def extra_repr(self) -> str:
        return (
            f"{self.channels}, excitations={self.excitations}, orders={self.orders}, "
            f"hidden={self.reduce_bias.shape[-1]}, iterations={self.iterations}"
        )
