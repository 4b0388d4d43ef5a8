"""ctm: squeeze, gate and excite, the whole module of the paper."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ccdn_ops.ops.autograd import differentiable
from ccdn_ops.ops.checks import check_device, check_iterations, check_map
from ccdn_ops.ops.ctm import reference
from ccdn_ops.ops.ctm.spec import OPERATOR
from ccdn_ops.ops.excitation_gates import check_weights


def ctm(x: Tensor, weights: Sequence[Tensor], iterations: int = 5) -> tuple[Tensor, Tensor]:
    """The cross-order two-squeeze multi-excitation module (eqs. 1 to 4).

    x (B, D, H, W) and weights = (reduce_weight (P, O, R, D), reduce_bias (P, O, R), expand_weight
    (P, O, D, R), expand_bias (P, O, D)) -> excited (B, P, D, H, W) and pooled (B, P, D), both in
    x's dtype. Every excited[b, p] has the memory format of x. pooled is the mean of each excited
    map, not normalised; it is computed without reading the maps, because the mean of gate * X is
    gate * kappa_st. With O = 1 only the first squeeze is computed. 16-bit maps are computed in
    float32. The weights may have their own dtype, which their gradients share.

    Raises TypeError and ValueError as dual_squeeze and excitation_gates do, and ValueError unless
    there are four weights. Differentiable any number of times and in forward mode (docs/limits.md).
    """
    if type(weights) in (tuple, list):
        found = _ctm.direct((x, *weights), (iterations,))
        if found is not None:
            return found
    check_map("ctm", "x", x, ranks=(4,))
    check_iterations("ctm", iterations)
    if isinstance(weights, Tensor) or not hasattr(weights, "__len__"):
        raise TypeError(
            f"ccdn_ops.ctm: weights is a {type(weights).__name__}; expected a sequence of 4 tensors"
        )
    if len(weights) != 4:
        raise ValueError(
            f"ccdn_ops.ctm: weights has {len(weights)} tensors; expected 4 "
            "(reduce_weight, reduce_bias, expand_weight, expand_bias)"
        )
    check_weights("ctm", x.shape[1], *weights)
    names = ("reduce_weight", "reduce_bias", "expand_weight", "expand_bias")
    check_device("ctm", x=x, **dict(zip(names, weights, strict=True)))
    excited, pooled = _ctm(x, *weights, iterations)
    return excited, pooled


_ctm = differentiable(OPERATOR, traced=lambda x, *rest: reference.ctm(x, rest[:4], rest[4]))
