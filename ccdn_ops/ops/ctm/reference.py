"""ctm in plain PyTorch (eqs. 1 to 4, and the pooling of eq. 5)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ccdn_ops.ops.dual_squeeze.reference import dual_squeeze
from ccdn_ops.ops.excitation_gates.reference import excitation_gates
from ccdn_ops.ops.multi_excite.reference import multi_excite
from ccdn_ops.precision import accumulation_dtype, no_autocast


def ctm(x: Tensor, weights: Sequence[Tensor], iterations: int = 5) -> tuple[Tensor, Tensor]:
    """The maps X_hat_p (B, P, D, H, W) of x (B, D, H, W) and their GAP (B, P, D), in x's dtype.

    Differentiable by autograd. weights are those of excitation_gates; with O = 1 there is no second
    squeeze.
    """
    wide = accumulation_dtype(x.dtype)
    with no_autocast(x.device.type):
        first: Tensor
        second: Tensor | None
        if weights[0].shape[1] == 1:
            first, second = x.mean((2, 3), dtype=wide), None
        else:
            first, second = dual_squeeze(x.to(wide), iterations)
        excited = multi_excite(x.to(wide), excitation_gates(first, second, *weights))
        return excited.to(x.dtype), excited.mean((3, 4)).to(x.dtype)
