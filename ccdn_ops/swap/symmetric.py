"""Which matrices are symmetric, and need no more of their gradient than its symmetric part.

The operators that take roots take a matrix for symmetric, and give it a symmetric gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_DEPTH = 6  # operations between a product and the matrix that is made of it


def is_symmetric(a: Tensor) -> bool:
    """Whether a matrix is symmetric and whoever has made it needs its gradient's symmetric part
    alone, which is all that the operator gives.

    It is so for X^T X, and for sums and multiples of it with what has no gradient.
    """
    if is_watched(a) or a.is_inference():
        return False
    if torch.is_grad_enabled() and a.requires_grad and not _is_square(a.grad_fn, _DEPTH):
        return False
    with torch.no_grad():
        skew = (a - a.mT).abs().amax()
        return bool(skew <= 64 * torch.finfo(a.dtype).eps * a.abs().amax())


def _is_square(node: Any, depth: int) -> bool:
    """Whether autograd's record of a matrix says X^T X and sums with and multiples by constants."""
    name = "" if node is None else node.name().removesuffix("Backward0")
    if depth == 0 or not name:
        return False
    before = [inner for inner, _ in node.next_functions]
    try:
        if name in ("Addmm", "Baddbmm"):
            kind = "mat" if name == "Addmm" else "batch"
            pair = getattr(node, f"_saved_{kind}1"), getattr(node, f"_saved_{kind}2")
            return before[0] is None and _transposed(*pair)
        if name in ("Mm", "Bmm"):
            return _transposed(node._saved_self, node._saved_mat2)
    except RuntimeError:  # a factor was changed in place since; its backward pass will say so
        return False
    tracked = [inner for inner in before if inner is not None]
    if name in ("Add", "Sub"):
        return all(_is_square(inner, depth - 1) for inner in tracked)
    if name in ("Mul", "Div"):  # by what has no gradient
        return before[0] is not None and len(tracked) == 1 and _is_square(before[0], depth - 1)
    # A product of more than two dimensions, seen with others.
    views = ("UnsafeView", "Expand", "ReshapeAlias", "View")
    return name in views and _is_square(before[0], depth - 1)


def _transposed(left: Tensor | None, right: Tensor | None) -> bool:
    """Whether one is the other's transpose, in the same memory."""
    if left is None or right is None:
        return False
    other = right.mT
    return (left.data_ptr(), left.shape, left.stride()) == (
        other.data_ptr(),
        other.shape,
        other.stride(),
    )


def is_watched(tensor: Tensor) -> bool:
    """Whether somebody waits for its gradient: the operators give a symmetric one, or none."""
    return bool(tensor._backward_hooks) or tensor.retains_grad
