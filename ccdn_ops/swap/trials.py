"""What a function is tried with: its arguments, numbers of iterations and of channels."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import torch

from .blocks import Unfit
from .code import Reading

COUNTS = range(1, 11)  # iterations
_COUNT = re.compile(r"iter|step|^n$|^k$|num", re.IGNORECASE)
_MOST_CHANNELS = 512


def signature(function: Callable[..., Any]) -> tuple[str, int | None]:
    """The name of the argument that is the number of iterations ("": none), and its default."""
    function, skipped = underlying(function)
    try:
        parameters = list(inspect.signature(function).parameters.values())[skipped:]
    except (TypeError, ValueError) as error:
        raise Unfit(f"its arguments are unknown: {error}") from error
    empty, positional = inspect.Parameter.empty, inspect.Parameter.POSITIONAL_OR_KEYWORD
    if not parameters or any(p.kind != positional for p in parameters):
        raise Unfit("its arguments are not of the plain kind, positional or by name")
    if parameters[0].default is not empty:
        raise Unfit("its first argument has a default")
    needed = [p for p in parameters[1:] if p.default is empty]
    if len(needed) > 1:
        raise Unfit(f"it needs {len(needed) + 1} arguments")
    second = parameters[1] if len(parameters) > 1 else None
    if second is None or not (needed or _COUNT.search(second.name)):
        return "", None
    default = second.default if type(second.default) is int else None
    return second.name, default


def underlying(function: Callable[..., Any]) -> tuple[Callable[..., Any], int]:
    """The forward of an autograd Function for its `apply`, with the number of arguments (ctx) that
    a caller does not give; any other function itself."""
    owner = getattr(function, "__self__", None)
    if isinstance(owner, type) and issubclass(owner, torch.autograd.Function):
        return owner.forward, int("setup_context" not in vars(owner))
    return function, 0


def widths(reading: Reading) -> list[int]:
    """The numbers of channels to try: a few, and those next to the numbers in the code.

    Raises Unfit for one that is too large to try.
    """
    found = {1, 2, 5, 17}
    for number, place in reading.numbers.items():
        if number > _MOST_CHANNELS:
            raise Unfit(f"its code mentions {place}, perhaps a number of channels too large to try")
        found |= {number - 1, number, number + 1}
    return sorted(found - {0})
