"""The excitation of one stage and the fusion of two: CTM and CFF as configured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ccdn_ops
from ccdn_ops.nn import CTM

if TYPE_CHECKING:
    from ccdn.config.model import ModelConfig


class Excitation(CTM):
    """CTM (eqs. 1 to 4) with the choices that the paper leaves open: shared weights, covariance.

    x (B, D, H, W) -> excited (B, P, D, H, W), pooled (B, P, D). At the defaults this is
    `ccdn_ops.nn.CTM` and one call of `ccdn_ops.ctm`.
    """

    def __init__(self, channels: int, config: ModelConfig) -> None:
        shared = config.gate_weights == "shared"
        super().__init__(
            channels,
            config.excitations,
            1 if shared else config.orders,
            config.reduction,
            config.iterations,
        )
        self.orders = config.orders
        self.centred = config.covariance == "centred"
        self.normalised = config.squeeze_norm == "layer"
        self.unbiased = config.covariance_divisor == "n-1"
        if not config.gate_bias:
            for name in ("reduce_bias", "expand_bias"):
                zeros = getattr(self, name).detach()
                delattr(self, name)
                self.register_buffer(name, zeros, persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        weights = self.gate_weights(x.shape[2] * x.shape[3])
        if not self.normalised and (self.orders == 1 or self.centred):
            return ccdn_ops.ctm(x, weights, self.iterations)
        gates = ccdn_ops.excitation_gates(*self.squeezes(x), *weights)
        return ccdn_ops.multi_excite(x, gates), gates * x.mean((2, 3)).unsqueeze(1)

    def squeezes(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The gates' inputs from x (B, D, H, W): kappa_st and kappa_nd, (B, D) each; with one order
        the second is None.
        """
        if self.orders == 1:
            return self._normalised(x.mean((2, 3))), None
        if self.centred:
            first, second = ccdn_ops.dual_squeeze(x, self.iterations)
        else:
            first = x.mean((2, 3))
            # The mean of x and -x together is 0, and its covariance is the second moment of x.
            second = ccdn_ops.second_order_squeeze(torch.cat((x, -x), 3), self.iterations)
        return self._normalised(first), self._normalised(second)

    def gate_weights(self, positions: int) -> list[Tensor]:
        """W_V, its bias, W_U and its bias for all P and orders, for maps of this many positions."""
        weights: list[Tensor] = [
            self.reduce_weight,
            self.reduce_bias,
            self.expand_weight,
            self.expand_bias,
        ]
        if weights[0].shape[1] != self.orders:
            weights = [w.expand(-1, self.orders, *w.shape[2:]) for w in weights]
        if self.orders == 2 and self.unbiased and not self.normalised:
            # kappa_nd is proportional to the root of the covariance, so its factor can go into the
            # first weights that it meets.
            factor = (positions / max(positions - 1, 1)) ** 0.5
            weights[0] = torch.stack((weights[0][:, 0], weights[0][:, 1] * factor), 1)
        return weights

    def _normalised(self, squeeze: Tensor) -> Tensor:
        if not self.normalised:
            return squeeze
        wide = squeeze if squeeze.dtype == torch.float64 else squeeze.float()
        # kappa_nd is of the order of 0.01, its variance far below layer_norm's usual epsilon.
        return F.layer_norm(wide, wide.shape[1:], eps=1e-12).to(squeeze.dtype)


class CFF(nn.Module):
    """Cross-order feature fusion, eq. 7, for all P excitations at once.

    X_G^p = BN(K2 * (X_{T-1}^p + Deconv(K1 * X_T^p))). With kernels of their own for each p the
    excitations lie side by side in the channels and every convolution is grouped by p; with
    shared ones they lie side by side in the batch. kernel: side of the deconvolution, 4 or 2.
    """

    def __init__(
        self,
        excitations: int,
        fine: int,
        coarse: int,
        shared: bool = False,
        kernel: int = 4,
        activation: str = "none",
    ) -> None:
        super().__init__()
        self.shared = shared
        self.activation = activation
        groups = 1 if shared else excitations
        wide = groups * fine
        padding = (kernel - 2) // 2
        self.reduce = nn.Conv2d(groups * coarse, wide, 1, groups=groups)
        self.resize = nn.ConvTranspose2d(
            wide, wide, kernel, stride=2, padding=padding, groups=groups
        )
        self.smooth = nn.Conv2d(wide, wide, 3, padding=1, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(wide)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """(B, P, D', 2H, 2W) and (B, P, D, H, W) to (B, P, D', 2H, 2W)."""
        first = 0 if self.shared else 1
        up = self.resize(self.reduce(coarse.flatten(first, first + 1)))
        fused = self.norm(self.smooth(fine.flatten(first, first + 1) + up))
        if self.activation == "relu":
            fused = F.relu(fused)
        return fused.view(fine.shape)
