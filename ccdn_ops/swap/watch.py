"""What a replacement assumes about the block beyond its layers, and checks at every call."""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, MethodType, SimpleNamespace
from typing import Any, cast

import torch
from torch import nn

from ccdn_ops.attention import is_hooked
from ccdn_ops.ops.checks import FLOATING

from .blocks import AttentionLayout, Layout, PoolingLayout, Step, Unfit
from .classes import definitions
from .code import PLAIN, Reading

# Compared by ==, which for functions and classes is identity; a copy of a model keeps them.
_ATOMS = (
    *PLAIN, range, type, FunctionType, BuiltinFunctionType, torch.device, torch.memory_format,
    torch.layout,
)  # fmt: skip
_INTERNAL = set(vars(nn.Module()))
_MANY = 32


@dataclass(frozen=True)
class Conditions:
    """When a replacement computes what its block did; otherwise the block's own forward runs.

    attributes are the plain ones that its code reads, as (path, value); constants those of modules,
    as (module, name, value); parts are the modules that are not called any more, as (path, class,
    names of its children), the block among them; dtypes those of the maps.
    """

    attributes: tuple[tuple[tuple[str, ...], Any], ...] = ()
    parts: tuple[tuple[tuple[str, ...], type, tuple[str, ...]], ...] = ()
    constants: tuple[tuple[str, str, Any], ...] = ()
    dtypes: tuple[torch.dtype, ...] = FLOATING

    def hold(self, module: nn.Module | None = None) -> bool:
        """Whether nothing has changed since the swap; a function's have no module."""
        for path, expected in self.attributes:
            found = _followed(module, path)
            if type(found) is not type(expected) or found != expected:
                return False
        for where, name, expected in self.constants:
            found = getattr(sys.modules.get(where), name, None)
            if type(found) is not type(expected) or found != expected:
                return False
        for path, cls, children in self.parts:
            part = cast(nn.Module, _followed(module, path))
            if path and (type(part) is not cls or is_hooked(part)):
                return False
            if tuple(part._modules) != children:
                return False
        return True

    def spoken(self) -> str:
        """The values in words: add_maxpool=False, module.TILE=64."""
        named = [(".".join(path), expected) for path, expected in self.attributes]
        named += [(f"{where}.{name}", expected) for where, name, expected in self.constants]
        spoken = [f"{name}={_short(expected)}" for name, expected in named]
        if len(self.dtypes) < len(FLOATING):
            spoken.append("in " + ", ".join(str(d).rpartition(".")[2] for d in self.dtypes))
        return ", ".join(spoken)


def read(module: nn.Module, layout: Layout) -> tuple[Conditions, dict[int, str]]:
    """What the layout assumes of the module, and the numbers from 2 on that its code reads, each
    with the place where it stands. Unfit where something cannot be watched."""
    idle = dict(_idle(module, layout))
    own = {path: part for path, part in idle.items() if not _is_torchs(type(part))}
    reading = Reading()
    methods: set[tuple[type, str]] = set()
    for part in own.values():
        for cls, function in definitions(type(part), "forward"):
            methods.add((cls, "forward"))
            reading.method(function)
    attributes: dict[tuple[str, ...], Any] = {}
    known = -1
    while known != len(reading.names):  # what is read may name more
        known = len(reading.names)
        for path, part in own.items():
            for name, value in _plain(part, reading, methods):
                for leaf, plain in _leaves((*path, name), value, reading):
                    reading.value(plain, ".".join(leaf))
                    attributes[leaf] = copy.deepcopy(plain)
    if len(attributes) > _MANY:
        raise Unfit(f"its code reads {len(attributes)} attributes; expected at most {_MANY}")
    parts = tuple((path, type(part), tuple(part._modules)) for path, part in idle.items())
    conditions = Conditions(
        tuple((path, attributes[path]) for path in sorted(attributes)),
        parts,
        reading.places(),
    )
    return conditions, reading.numbers


def _idle(module: nn.Module, layout: Layout) -> Iterator[tuple[tuple[str, ...], nn.Module]]:
    """The modules that a replacement does not call: the block and some of its parts."""
    steps: tuple[Step, ...] = ()
    if isinstance(layout, AttentionLayout):
        steps = (*layout.layers, *layout.gate)
    elif isinstance(layout, PoolingLayout):
        steps = layout.before
    called = tuple(step for step in steps if isinstance(step, str))
    for name, part in module.named_modules():
        if not any(name == step or name.startswith(f"{step}.") for step in called):
            yield tuple(name.split(".")) if name else (), part


def _plain(
    part: nn.Module, reading: Reading, methods: set[tuple[type, str]]
) -> Iterator[tuple[str, Any]]:
    """The attributes that are named and no layers, weights or methods; those are read instead."""
    names = reading.names
    if names & {"getattr", "__dict__", "vars"}:  # any may be meant
        names = names | vars(part).keys()
    for name in sorted(names - _INTERNAL):
        if name in part._modules or name in part._parameters or name in part._buffers:
            continue
        if name in vars(part):
            yield name, vars(part)[name]
            continue
        for cls, value in definitions(type(part), name, object):
            if name.startswith("__") or (cls, name) in methods:
                continue
            methods.add((cls, name))
            if isinstance(value, (staticmethod, classmethod)):
                value = value.__func__
            if isinstance(value, property):
                value = value.fget
            if isinstance(value, functools.cached_property):
                value = value.func
            if isinstance(value, FunctionType):
                reading.method(value)
            else:
                yield name, value


def _leaves(
    path: tuple[str, ...], value: Any, reading: Reading, depth: int = 0
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """An attribute as values that == tells apart; an object as its own attributes."""
    if _atomic(value):
        yield path, value
        return
    if isinstance(value, functools.partial):
        own = {name: getattr(value, name) for name in ("func", "args", "keywords")}
    elif depth < 3 and _is_record(value):
        own = {}
        for cls in reversed(type(value).__mro__[:-1]):
            own.update((n, v) for n, v in vars(cls).items() if not n.startswith("__"))
        own.update(vars(value))
    else:
        raise Unfit(
            f"its code reads {'.'.join(path)}, of {type(value).__name__}, which a swap cannot watch"
        )
    for name, part in own.items():
        if isinstance(part, (FunctionType, property, staticmethod, classmethod)):
            if name in reading.names and name not in vars(value):
                raise Unfit(f"its code uses {'.'.join((*path, name))}, which a swap cannot watch")
        else:
            yield from _leaves((*path, name), part, reading, depth + 1)


def _is_record(value: Any) -> bool:
    """Whether an object consists of its attributes alone."""
    cls = type(value)
    return cls is SimpleNamespace or (
        cls.__module__ != "builtins"
        and hasattr(value, "__dict__")
        and not callable(value)
        and not isinstance(value, (nn.Module, torch.Tensor, dict, list, tuple))
        and cls.__getattribute__ is object.__getattribute__
        and not hasattr(cls, "__getattr__")
        and not any("__slots__" in vars(base) for base in cls.__mro__[:-1])
    )


def _atomic(value: Any) -> bool:
    if isinstance(value, MethodType):
        return isinstance(value.__self__, type)
    if type(value) in (list, set, frozenset) or isinstance(value, tuple):
        return all(_atomic(part) for part in value)
    if type(value) is dict:
        return all(_atomic(part) for part in (*value, *value.values()))
    return isinstance(value, _ATOMS)


def _is_torchs(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == "torch"


def _followed(module: nn.Module | None, path: tuple[str, ...]) -> Any:
    found: Any = module
    for name in path:
        found = getattr(found, name, None)
    return found


def _short(value: object) -> str:
    text = getattr(value, "__name__", None) or repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
