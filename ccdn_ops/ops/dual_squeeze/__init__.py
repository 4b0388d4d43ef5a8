"""dual_squeeze: both channel squeezes of a feature map in one pass."""

from __future__ import annotations

from torch import Tensor

from ccdn_ops.ops.autograd import differentiable
from ccdn_ops.ops.checks import check_iterations, check_map
from ccdn_ops.ops.dual_squeeze.spec import OPERATOR


def dual_squeeze(x: Tensor, iterations: int = 5) -> tuple[Tensor, Tensor]:
    """The first-order and the second-order squeeze of every channel (eqs. 1 and 2).

    x (B, D, H, W) or (B, D, N), float32, float64, bfloat16 or float16, in any memory format ->
    (first, second), each (B, D) in x's dtype. first is the mean over the positions; second is the
    mean over the columns of the square root of the covariance, by `iterations` (1 to 10) coupled
    Newton-Schulz steps between trace normalisation and compensation.

    16-bit inputs are accumulated in float32. A sample without variance (a single position, for
    example) has second = 0, and zero gradient through it. A sample whose covariance overflows
    (values of about 1e18 in float32) has a second and a gradient that are not finite. Samples do
    not influence each other.

    Raises TypeError for any other dtype or a non-int `iterations`, and ValueError for any other
    rank, an empty D or N, or `iterations` out of range. Differentiable any number of times and in
    forward mode (docs/limits.md).
    """
    found = _dual_squeeze.direct((x,), (iterations,))
    if found is not None:
        return found
    check_map("dual_squeeze", "x", x)
    check_iterations("dual_squeeze", iterations)
    first, second = _dual_squeeze(x, iterations)
    return first, second


_dual_squeeze = differentiable(OPERATOR)
