"""covariance_pool: the covariance of the channels over the positions."""

from __future__ import annotations

from torch import Tensor

from ccdn_ops.ops.autograd import differentiable
from ccdn_ops.ops.checks import check_map
from ccdn_ops.ops.covariance_pool.spec import OPERATOR


def covariance_pool(x: Tensor) -> Tensor:
    """The covariance S = Xc Xc^T / N of the channels over the positions (eq. 2).

    x (B, D, H, W) or (B, D, N), float32, float64, bfloat16 or float16, in any memory format ->
    (B, D, D) in x's dtype, symmetric. 16-bit inputs are accumulated in float32. A sample without
    variance (a single position, for example) has covariance 0 and zero gradient. Samples do not
    influence each other.

    Raises TypeError for any other dtype, and ValueError for any other rank or an empty D or N.
    Differentiable any number of times and in forward mode (docs/limits.md).
    """
    found = _covariance_pool.direct((x,), ())
    if found is not None:
        return found
    check_map("covariance_pool", "x", x)
    (covariance,) = _covariance_pool(x)
    return covariance


_covariance_pool = differentiable(OPERATOR)
