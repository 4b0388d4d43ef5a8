"""What the classes of a module define, as far as its own code reaches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import takewhile
from types import FunctionType
from typing import Any

from torch import nn

from .code import is_pure


def bases(cls: type) -> Iterator[type]:
    """A class of modules and those before nn.Module in the order of resolution."""
    return takewhile(lambda base: base is not nn.Module, cls.__mro__)


def own_bases(cls: type) -> Iterator[type]:
    """The same up to the first that is torch's or of another package that is known."""
    return takewhile(lambda base: not is_pure(base.__module__), bases(cls))


def methods(classes: Iterable[type]) -> Iterator[tuple[type, str, Any, FunctionType]]:
    """Class, name, definition and function of their methods, static ones among them, without
    __init__ and those that are overridden by what does not mention super()."""
    hidden = {"__init__"}
    for cls in classes:
        for name, value in vars(cls).items():
            function = value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
            if isinstance(function, FunctionType) and name not in hidden:
                yield cls, name, value, function
            if not _calls_super(function):
                hidden.add(name)


def definitions(cls: type, name: str, kind: Any = FunctionType) -> Iterator[tuple[type, Any]]:
    """What a class and its bases define under one name, as far as super() reaches."""
    for base in bases(cls):
        if isinstance(vars(base).get(name), kind) and name in vars(base):
            value = vars(base)[name]
            yield base, value
            if not _calls_super(value):
                return


def _calls_super(value: object) -> bool:
    return "super" in getattr(getattr(value, "__code__", None), "co_names", ())
