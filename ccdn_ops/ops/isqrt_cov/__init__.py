"""isqrt_cov: the square root of the covariance of a feature map."""

from __future__ import annotations

from torch import Tensor

from ccdn_ops.ops.autograd import differentiable
from ccdn_ops.ops.checks import check_iterations, check_map
from ccdn_ops.ops.isqrt_cov.spec import OPERATOR
from ccdn_ops.ops.raw import will_differentiate


def isqrt_cov(x: Tensor, iterations: int = 5, triu: bool = False) -> Tensor:
    """The square root of the covariance: newton_schulz_sqrt(covariance_pool(x)) in one (eq. 2).

    x (B, D, H, W) or (B, D, N), float32, float64, bfloat16 or float16, in any memory format ->
    (B, D, D) in x's dtype, symmetric, by `iterations` (1 to 10) Newton-Schulz steps. With `triu`
    the result is its upper triangle, row by row, (B, D (D + 1) / 2): the vector of iSQRT-COV. With
    fewer positions than channels, no D x D matrix is iterated.

    16-bit inputs are computed in float32. A sample without variance (a single position, for
    example) has root 0 and zero gradient. A sample whose covariance overflows (values of about 1e18
    in float32) has a root and a gradient that are not finite. Samples do not influence each other.

    Raises TypeError for any other dtype, a non-int `iterations` or a non-bool `triu`, and
    ValueError for any other rank, an empty D or N, or `iterations` out of range. Differentiable any
    number of times and in forward mode (docs/limits.md).
    """
    found = _isqrt_cov.direct((x,), (iterations, triu))
    if found is not None:
        return found
    operator = "isqrt_cov"
    check_map(operator, "x", x)
    check_iterations(operator, iterations)
    if not isinstance(triu, bool):
        raise TypeError(f"ccdn_ops.{operator}: triu is {triu!r}; expected a bool")
    (root,) = _isqrt_cov(x, iterations, triu, will_differentiate(x))
    return root


_isqrt_cov = differentiable(OPERATOR)
