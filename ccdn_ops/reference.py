"""The literal references, differentiable by plain autograd: for tests, benchmarks and readers.

ccdn_ops.reference.X is in ccdn_ops/ops/X/reference.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ccdn_ops import ops  # noqa: F401  (fills OPERATORS)
from ccdn_ops.ops.operator import OPERATORS

__all__ = sorted(OPERATORS)

globals().update({name: operator.reference for name, operator in OPERATORS.items()})


def __getattr__(name: str) -> Callable[..., Any]:
    raise AttributeError(f"ccdn_ops.reference has no {name!r}; it has {', '.join(__all__)}")
