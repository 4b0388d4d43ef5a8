"""ctm in plain PyTorch: the best forms of its parts; the mean does not read the maps."""

from __future__ import annotations

from torch import Tensor

from best_eager.dual_squeeze import dual_squeeze
from best_eager.excitation_gates import excitation_gates
from best_eager.multi_excite import multi_excite


def ctm(x: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
    """excited (B, P, D, H, W) and pooled (B, P, D) of x (B, D, H, W), differentiable once."""
    first, second = dual_squeeze(x.flatten(2))
    gates = excitation_gates(first, second, *weights)
    return multi_excite(x, gates), gates * first.unsqueeze(1)
