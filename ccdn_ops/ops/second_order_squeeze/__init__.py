"""second_order_squeeze: the covariance squeeze alone."""

from __future__ import annotations

from torch import Tensor

from ccdn_ops.ops.checks import check_iterations, check_map
from ccdn_ops.ops.dual_squeeze import _dual_squeeze, dual_squeeze
from ccdn_ops.ops.second_order_squeeze import spec  # noqa: F401  (its record)


def second_order_squeeze(x: Tensor, iterations: int = 5) -> Tensor:
    """The second-order squeeze of every channel (eq. 2), for layers like SAN's SOCA.

    x (B, D, H, W) or (B, D, N), float32, float64, bfloat16 or float16, in any memory format ->
    (B, D) in x's dtype: the mean over the columns of the square root of the covariance, by
    `iterations` (1 to 10) coupled Newton-Schulz steps between trace normalisation and compensation.
    This is the second output of dual_squeeze, which computes the mean at no extra cost.

    A sample without variance (a single position, for example) gives 0 and zero gradient. A sample
    whose covariance overflows (values of about 1e18 in float32) gives a result and a gradient that
    are not finite. Samples do not influence each other.

    Raises TypeError for any other dtype or a non-int `iterations`, and ValueError for any other
    rank, an empty D or N, or `iterations` out of range. Differentiable any number of times and in
    forward mode (docs/limits.md).
    """
    found = _dual_squeeze.direct((x,), (iterations,))
    if found is not None:
        return found[1]
    check_map("second_order_squeeze", "x", x)
    check_iterations("second_order_squeeze", iterations)
    return dual_squeeze(x, iterations)[1]
