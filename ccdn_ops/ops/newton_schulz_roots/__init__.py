"""newton_schulz_roots: the matrix square root and its inverse by Newton-Schulz iterations."""

from __future__ import annotations

from torch import Tensor

from ccdn_ops.ops.autograd import differentiable
from ccdn_ops.ops.checks import check_iterations, check_matrices
from ccdn_ops.ops.newton_schulz_roots.spec import OPERATOR
from ccdn_ops.ops.raw import will_differentiate


def newton_schulz_roots(
    a: Tensor, iterations: int = 5, norm: bool = False
) -> tuple[Tensor, Tensor]:
    """The square root and the inverse root of symmetric positive semi-definite matrices.

    a (B, D, D), float32, float64, bfloat16 or float16 -> two (B, D, D) in a's dtype, symmetric: the
    iterates after `iterations` (1 to 10) coupled Newton-Schulz steps on a / c, compensated by
    sqrt(c). c is the trace, as in iSQRT-COV and IterNorm, or with `norm` the Frobenius norm, as in
    network deconvolution. a is taken as (a + a^T) / 2, so its gradient is symmetric.

    The inverse root is finite for every matrix: along an eigenvalue 0 it is 1.5^K / sqrt(c), which
    grows with K. A matrix of trace 0 (norm 0) has roots 0 and zero gradient. 16-bit inputs are
    computed in float32. Samples do not influence each other.

    Raises TypeError for any other dtype, a non-int `iterations` or a non-bool `norm`, and
    ValueError for matrices that are empty or not square, or `iterations` out of range.
    Differentiable any number of times and in forward mode (docs/limits.md).
    """
    found = _newton_schulz_roots.direct((a,), (iterations, norm))
    if found is not None:
        return found
    operator = "newton_schulz_roots"
    check_matrices(operator, "a", a)
    check_iterations(operator, iterations)
    if not isinstance(norm, bool):
        raise TypeError(f"ccdn_ops.{operator}: norm is {norm!r}; expected a bool")
    root, inverse = _newton_schulz_roots(a, iterations, norm, will_differentiate(a))
    return root, inverse


_newton_schulz_roots = differentiable(OPERATOR)
