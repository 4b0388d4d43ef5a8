"""newton_schulz_sqrt: the matrix square root by Newton-Schulz iterations."""

from __future__ import annotations

import torch
from torch import Tensor

from ccdn_ops.ops.autograd import differentiable
from ccdn_ops.ops.checks import check_iterations, check_tensor
from ccdn_ops.ops.newton_schulz_sqrt.spec import OPERATOR


def newton_schulz_sqrt(a: Tensor, iterations: int = 5) -> Tensor:
    """The square root of symmetric positive semi-definite matrices, by Newton-Schulz iterations.

    a (B, D, D), float32, float64, bfloat16 or float16 -> (B, D, D) in a's dtype, symmetric: the
    iterate after `iterations` (1 to 10) coupled steps between trace normalisation and compensation,
    as in iSQRT-COV. a is taken as (a + a^T) / 2, so its gradient is symmetric. 16-bit inputs are
    computed in float32. A matrix of trace 0 has root 0 and zero gradient. Samples do not influence
    each other.

    Raises TypeError for any other dtype or a non-int `iterations`, and ValueError for matrices that
    are empty or not square, or `iterations` out of range. Differentiable any number of times and in
    forward mode (docs/limits.md).
    """
    operator = "newton_schulz_sqrt"
    check_tensor(operator, "a", a)
    if a.dim() != 3 or a.shape[1] != a.shape[2] or a.shape[1] < 1:
        raise ValueError(
            f"ccdn_ops.{operator}: a has shape {tuple(a.shape)}; expected (B, D, D) with D >= 1"
        )
    check_iterations(operator, iterations)
    (root,) = _newton_schulz_sqrt(a, iterations, will_differentiate(a))
    return root


def will_differentiate(x: Tensor) -> bool:
    """Whether a gradient may be requested, so that saving what it needs pays off."""
    if torch.compiler.is_exporting():  # an exported graph is the forward pass alone
        return False
    if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
        return True
    return torch.is_grad_enabled() and x.requires_grad


_newton_schulz_sqrt = differentiable(OPERATOR)
