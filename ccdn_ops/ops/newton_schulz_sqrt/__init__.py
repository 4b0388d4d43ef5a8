"""newton_schulz_sqrt: the matrix square root by Newton-Schulz iterations."""

from __future__ import annotations

from typing import Literal, overload

from torch import Tensor

from ccdn_ops.ops.autograd import differentiable
from ccdn_ops.ops.checks import check_iterations, check_matrices
from ccdn_ops.ops.newton_schulz_roots import newton_schulz_roots
from ccdn_ops.ops.newton_schulz_sqrt.spec import OPERATOR
from ccdn_ops.ops.raw import will_differentiate


@overload
def newton_schulz_sqrt(
    a: Tensor, iterations: int = ..., inverse: Literal[False] = ...
) -> Tensor: ...


@overload
def newton_schulz_sqrt(
    a: Tensor, iterations: int = ..., *, inverse: Literal[True]
) -> tuple[Tensor, Tensor]: ...


def newton_schulz_sqrt(
    a: Tensor, iterations: int = 5, inverse: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """The square root of symmetric positive semi-definite matrices, by Newton-Schulz iterations.

    a (B, D, D), float32, float64, bfloat16 or float16 -> (B, D, D) in a's dtype, symmetric: the
    iterate after `iterations` (1 to 10) coupled steps between trace normalisation and compensation,
    as in iSQRT-COV. With `inverse` also the inverse root, (root, inverse_root): newton_schulz_roots
    says what that is where eigenvalues are 0. a is taken as (a + a^T) / 2, so its gradient is
    symmetric. 16-bit inputs are computed in float32. A matrix of trace 0 has root 0 and zero
    gradient. Samples do not influence each other.

    Raises TypeError for any other dtype, a non-int `iterations` or a non-bool `inverse`, and
    ValueError for matrices that are empty or not square, or `iterations` out of range.
    Differentiable any number of times and in forward mode (docs/limits.md).
    """
    if inverse is False:
        found = _newton_schulz_sqrt.direct((a,), (iterations,))
        if found is not None:
            return found
    operator = "newton_schulz_sqrt"
    check_matrices(operator, "a", a)
    check_iterations(operator, iterations)
    if not isinstance(inverse, bool):
        raise TypeError(f"ccdn_ops.{operator}: inverse is {inverse!r}; expected a bool")
    if inverse:
        return newton_schulz_roots(a, iterations)
    (root,) = _newton_schulz_sqrt(a, iterations, will_differentiate(a))
    return root


_newton_schulz_sqrt = differentiable(OPERATOR)
