"""ctm: squeeze, gate and excite, the whole module of the paper."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ccdn_ops.backends.native import accumulation_dtype, no_autocast
from ccdn_ops.ops.checks import check_iterations, check_map, check_tensor
from ccdn_ops.ops.dual_squeeze import dual_squeeze
from ccdn_ops.ops.excitation import excitation_gates, multi_excite


def ctm(x: Tensor, weights: Sequence[Tensor], iterations: int = 5) -> tuple[Tensor, Tensor]:
    """The cross-order two-squeeze multi-excitation module (eqs. 1 to 4).

    x (B, D, H, W) and weights = (reduce_weight (P, O, R, D), reduce_bias (P, O, R), expand_weight
    (P, O, D, R), expand_bias (P, O, D)) -> excited (B, P, D, H, W) and pooled (B, P, D), both in
    x's dtype. pooled is the mean of each excited map, not normalised; it costs no look at the maps,
    because the mean of gate * X is gate * kappa_st. With O = 1 only the first squeeze is computed.

    Raises TypeError and ValueError as dual_squeeze and excitation_gates do, and ValueError for
    other than four weights.
    """
    check_map("ctm", "x", x, ranks=(4,))
    check_iterations("ctm", iterations)
    if len(weights) != 4:
        raise ValueError(
            f"ccdn_ops.ctm: weights has {len(weights)} tensors; expected 4 "
            "(reduce_weight, reduce_bias, expand_weight, expand_bias)"
        )
    check_tensor("ctm", "reduce_weight", weights[0])
    first: Tensor
    second: Tensor | None
    if weights[0].dim() == 4 and weights[0].shape[1] == 1:
        wide = accumulation_dtype(x.dtype)
        with no_autocast(x.device.type):
            first, second = x.mean((2, 3), dtype=wide).to(x.dtype), None
    else:
        first, second = dual_squeeze(x, iterations)
    reduce_weight, reduce_bias, expand_weight, expand_bias = weights
    gates = excitation_gates(first, second, reduce_weight, reduce_bias, expand_weight, expand_bias)
    return multi_excite(x, gates), gates * first.unsqueeze(1)
