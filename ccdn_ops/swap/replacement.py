"""What is called instead of a function: the operators, or the function itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ccdn_ops.ops.isqrt_cov import isqrt_cov
from ccdn_ops.ops.newton_schulz_sqrt import newton_schulz_sqrt

from .blocks import FunctionLayout
from .calls import is_tried
from .swapped import computed
from .symmetric import is_watched
from .watch import Conditions


@dataclass(frozen=True)
class Replacement:
    """What is called instead of a function.

    A call of the kind that was tried goes to the operators; every other call goes to the function.
    The root's operator takes symmetric matrices for granted, so it gets only what the replacement
    of covariance pooling has made and nobody has changed since. Such a matrix carries its features:
    with fewer positions than channels the root is computed from these.
    """

    function: Callable[..., Any]
    layout: FunctionLayout
    conditions: Conditions

    def __post_init__(self) -> None:
        for name in ("__module__", "__name__", "__qualname__", "__doc__"):
            object.__setattr__(self, name, getattr(self.function, name, None))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        x: Any = args[0] if args else None
        count = self._count(args, kwargs)
        if count is not None and self._takes_map_or_matrix(x):
            if self.layout.kind != "root":
                found = computed(self.layout, x, count)
                if self.layout.kind == "covariance" and not torch.compiler.is_compiling():
                    _remember(found, x)
                return found
            features = None if torch.compiler.is_compiling() else _features(x)
            if features is not None and not is_watched(x):
                if features.shape[2:].numel() < x.shape[1]:
                    return isqrt_cov(features, count)
                return newton_schulz_sqrt(x, count)
        return self.function(*args, **kwargs)

    def _count(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
        """The number of iterations that a call asks for; None for another kind of call."""
        layout = self.layout
        if len(args) == 1 and not kwargs:
            count = layout.default
        elif layout.argument and len(args) == 2 and not kwargs:
            count = args[1]
        elif layout.argument and len(args) == 1 and len(kwargs) == 1:
            count = kwargs.get(layout.argument)
        else:
            return None
        return count if type(count) is int and count in layout.iterations else None

    def _takes_map_or_matrix(self, x: Any) -> bool:
        if self.layout.of_maps:
            return self._takes(x, 4)
        return self._takes(x, 3) and x.shape[1] == x.shape[2]

    def _takes(self, x: Any, *ranks: int) -> bool:
        return is_tried(x, ranks, self.conditions.dtypes) and self.conditions.hold()


def full_name(function: Callable[..., Any]) -> str:
    """module.name of a function, module.Class.apply of an autograd Function."""
    owner = getattr(function, "__self__", None)
    if isinstance(owner, type):
        return f"{owner.__module__}.{owner.__qualname__}.apply"
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{getattr(function, '__module__', '')}.{name}"


def _remember(covariance: Tensor, x: Tensor) -> None:
    """Inference tensors do not say whether they were changed in place; these carry nothing."""
    if not covariance.is_inference() and not x.is_inference():
        covariance._swap_features = x, x._version, covariance._version  # type: ignore[attr-defined]


def _features(covariance: Tensor) -> Tensor | None:
    """Those that a covariance was made of, if neither has changed since."""
    x, *versions = getattr(covariance, "_swap_features", (None,))
    return x if x is not None and versions == [x._version, covariance._version] else None
