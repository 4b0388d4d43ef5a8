"""Modules over the operators, ready to be put into a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import torch
import torch.fx
from torch import Tensor, nn

from .attention import second_order_attention, squeeze_excite
from .ops.checks import check_iterations, check_sizes
from .ops.cocs_loss import cocs_loss
from .ops.ctm import ctm
from .ops.isqrt_cov import isqrt_cov
from .ops.second_order_squeeze import second_order_squeeze

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

# torch.fx makes a node of each call of these, as of torch's own functions.
for _operator in ("ctm", "isqrt_cov", "second_order_squeeze"):
    torch.fx.wrap(_operator)

__all__ = [
    "CTM",
    "COCSLoss",
    "ISqrtCovPool",
    "SecondOrderAttention",
    "SqueezeExcite",
]


class CTM(nn.Module):
    """Cross-order two-squeeze multi-excitation module (eqs. 1 to 4 of the CCDN paper).

    x (B, D, H, W) -> excited (B, P, D, H, W) and pooled (B, P, D), the GAP of each excited map and
    the input of `COCSLoss`.

    Args:
        channels: those of x, D.
        excitations: how many, P.
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
        check_sizes("nn.CTM", channels=channels, excitations=excitations, reduction=reduction)
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


class COCSLoss(nn.Module):
    """The weighted cross-order cross-semantic loss of several levels (eqs. 5, 6, 8 and 9).

    features: one (B, P, D) a level, each with its own D, not normalised (CTM's pooled) -> the
    scalar sum over the levels of gamma * L(Q), in the features' dtype.

    Args:
        gammas: the weight of each level; the paper's for T, T-1 and G are the default.
        group: a process group whose samples form one batch, or None for this process alone; see
        `ccdn_ops.cocs_loss` for how the gradient is scaled.

    Raises ValueError for no gamma, for a gamma that is negative or not finite, and when the number
    of levels differs from the number of gammas; otherwise as `ccdn_ops.cocs_loss`.
    """

    def __init__(
        self,
        gammas: Sequence[float] = (0.025, 0.01, 0.05),
        group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.gammas = tuple(float(gamma) for gamma in gammas)
        if not self.gammas or not all(0 <= gamma < float("inf") for gamma in self.gammas):
            raise ValueError(
                f"gammas must be one or more finite numbers, none negative, found {self.gammas}"
            )
        self.group = group

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        levels = [features] if isinstance(features, Tensor) else list(features)
        if len(levels) != len(self.gammas):
            raise ValueError(f"expected {len(self.gammas)} levels, found {len(levels)}")
        losses = cocs_loss(levels, self.group)
        return losses @ torch.tensor(self.gammas, dtype=losses.dtype, device=losses.device)

    def extra_repr(self) -> str:
        return f"gammas={self.gammas}" + (", over a process group" if self.group else "")


class SqueezeExcite(nn.Module):
    """Squeeze and excitation (Hu et al. 2018), optionally with a covariance squeeze in addition.

    x (B, D, H, W) -> x * gate(fc2(act(fc1(mean of x)))), in x's shape and dtype. With
    second_order, a second bottleneck over the covariance squeeze (eq. 2 of the CCDN paper) adds
    its logits to the first one's. Its last layer starts at zero: at first the module is plain
    squeeze and excitation, and the first gradient reaches that layer.

    Args:
        channels: those of x, D.
        reduction: the bottleneck's width is D / reduction, at least 1.
        activation, gate: module classes, called without arguments.
        second_order: adds `second`, a `SecondOrderBranch`.
        iterations: Newton-Schulz iterations of the covariance squeeze, 1 to 10.

    The layers are 1x1 convolutions named `fc1` and `fc2`, as in torchvision's SqueezeExcitation
    and timm's SEModule, so that their checkpoints load. Raises ValueError for sizes below 1 and
    iterations out of range.
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        activation: Callable[[], nn.Module] = nn.ReLU,
        gate: Callable[[], nn.Module] = nn.Sigmoid,
        second_order: bool = False,
        iterations: int = 5,
    ) -> None:
        super().__init__()
        check_sizes("nn.SqueezeExcite", channels=channels, reduction=reduction)
        check_iterations("nn.SqueezeExcite", iterations)
        hidden = max(channels // reduction, 1)
        self.iterations = iterations
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.act = activation()
        self.fc2 = nn.Conv2d(hidden, channels, 1)
        self.gate = gate()
        self.second = SecondOrderBranch(channels, hidden) if second_order else None

    def forward(self, x: Tensor) -> Tensor:
        layers = (self.fc1, self.act, self.fc2)
        return squeeze_excite(x, layers, (self.gate,), self.second, self.iterations)

    def extra_repr(self) -> str:
        return f"iterations={self.iterations}" if self.second is not None else ""


class SecondOrderBranch(nn.Module):
    """Logits from the covariance squeeze: (B, D) -> (B, D), zero until they are trained."""

    def __init__(
        self,
        channels: int,
        hidden: int,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden, device=device, dtype=dtype)
        self.act = nn.ReLU()
        self.fc2 = nn.Linear(hidden, channels, device=device, dtype=dtype)
        nn.init.zeros_(self.fc2.weight)
        nn.init.zeros_(self.fc2.bias)

    def forward(self, second: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(second)))


class SecondOrderAttention(nn.Module):
    """Second-order channel attention, the SOCA of SAN (Dai et al., CVPR 2019, eqs. 8 to 11).

    x (B, D, H, W) -> x * sigmoid(W_U relu(W_D z)), z the mean over the columns of the square root
    of x's covariance, in x's shape and dtype.

    Args:
        channels: those of x, D.
        reduction: the bottleneck's width is D / reduction, at least 1; the paper's is 16.
        iterations: Newton-Schulz iterations, 1 to 10; the paper's is 5.
        window: the covariance covers the central `window` x `window` positions of a larger map,
        as in SAN's code with 1000; None: all positions.

    The layers are `conv_du.0` and `conv_du.2`, as in SAN's checkpoints. Raises ValueError for sizes
    below 1 and iterations out of range.
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        iterations: int = 5,
        window: int | None = None,
    ) -> None:
        super().__init__()
        check_sizes("nn.SecondOrderAttention", channels=channels, reduction=reduction)
        check_iterations("nn.SecondOrderAttention", iterations)
        if window is not None:
            check_sizes("nn.SecondOrderAttention", window=window)
        hidden = max(channels // reduction, 1)
        self.iterations, self.window = iterations, window
        self.conv_du = nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, channels, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        reduce, act, expand, gate = self.conv_du
        return second_order_attention(
            x, (reduce, act, expand), (gate,), self.iterations, self.window
        )

    def extra_repr(self) -> str:
        return f"iterations={self.iterations}" + (f", window={self.window}" if self.window else "")


class ISqrtCovPool(nn.Module):
    """The iSQRT-COV head: covariance pooling and its matrix square root (Li et al., CVPR 2018).

    x (B, D, H, W) or (B, D, N) -> the root of x's covariance after K coupled Newton-Schulz
    iterations, trace normalised and compensated, in x's dtype:

    - output "triu": its upper triangle, row by row, (B, D (D + 1) / 2), the input of a classifier;
    - output "mean": the mean over its columns, (B, D), by `second_order_squeeze`, without a matrix;
    - output "matrix": (B, D, D).

    The 1x1 convolution, batch normalisation and ReLU that reduce D beforehand belong to the
    network. No parameters. Raises ValueError for any other output and iterations outside 1 to 10.
    """

    def __init__(
        self, iterations: int = 5, output: Literal["triu", "mean", "matrix"] = "triu"
    ) -> None:
        super().__init__()
        check_iterations("nn.ISqrtCovPool", iterations)
        if output not in ("triu", "mean", "matrix"):
            raise ValueError(f"output must be 'triu', 'mean' or 'matrix', found {output!r}")
        self.iterations, self.output = iterations, output

    def forward(self, x: Tensor) -> Tensor:
        if self.output == "mean":
            return second_order_squeeze(x, self.iterations)
        return isqrt_cov(x, self.iterations, triu=self.output == "triu")

    def extra_repr(self) -> str:
        return f"iterations={self.iterations}, output={self.output!r}"
