"""Which calls the native CPU kernels serve, and what they are given: alike for every operator."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import Tensor

from ccdn_ops.backends import native, registry
from ccdn_ops.layout import is_aligned


def supports(x: Tensor, *_: object) -> str | None:
    """Why the CPU kernels cannot serve a call with this first tensor; None if they can."""
    if x.device.type != "cpu":
        return f"the native CPU kernels serve CPU tensors, not {x.device.type}"
    return native.why_missing()


def register(
    operator: str,
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    bind: Callable[..., registry.Bound | None] | None = None,
    supports: Callable[..., str | None] = supports,
) -> None:
    """Offer native kernels for an operator, which get aligned tensors only; see registry.register.

    `bind` gets aligned tensors anyhow: calls of others are not repeated directly.
    """
    registry.register(
        operator,
        backend="cpu",
        forward=_aligned(forward),
        backward=_aligned(backward),
        supports=supports,
        bind=bind,
    )


def _aligned(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, given copies of tensors that are not aligned."""

    @wraps(function)
    def call(*arguments: Any) -> Any:
        return function(*map(_copied, arguments))

    return call


def _copied(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return argument if is_aligned(argument) else argument.clone()
    return [_copied(x) for x in argument] if isinstance(argument, (list, tuple)) else argument
