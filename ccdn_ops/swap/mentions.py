"""What a module's methods mention: functions that a swap may replace, and those out of reach."""

from __future__ import annotations

import dis
import functools
from abc import ABCMeta
from collections.abc import Callable, Iterator, Mapping
from types import CodeType, FunctionType, ModuleType
from typing import Any

import torch
from torch import nn

from .classes import methods, own_bases
from .code import is_pure, nested
from .replacement import Replacement, full_name

LOADS = ("LOAD_ATTR", "LOAD_METHOD")
_BETWEEN = ("CACHE", "PUSH_NULL", "NOP", "EXTENDED_ARG", "PRECALL")
_MISSING = object()
Path = tuple[str, ...]


def called(
    module: nn.Module, known: Mapping[Callable[..., Any], Replacement | None]
) -> Iterator[Callable[..., Any]]:
    """The functions that a module's methods mention, callers before what they call, and those that
    are attributes of it or of its class. Functions of torch and the like are none of them, nor is
    what a function calls that by then is known to be replaced."""
    seen: set[Any] = set()
    waiting = [function for _, _, _, function in methods(own_bases(type(module)))]
    kept = [*class_attributes(type(module)).values(), *vars(module).values()]
    for value in kept:
        if is_function(value) and value not in seen:
            seen.add(value)
            yield value
            if isinstance(value, FunctionType) and known.get(value) is None:
                waiting.append(value)
    while waiting:
        function = waiting.pop(0)
        if known.get(function) is not None:
            continue
        values = [value for _, value in mentioned(function)]
        for value in (*values, *defaults(function)):
            if is_function(value) and value not in seen:
                seen.add(value)
                yield value
                if isinstance(value, FunctionType) and known.get(value) is None:
                    waiting.append(value)


def out_of_reach(
    module: nn.Module, is_named: Callable[[Callable[..., Any]], bool]
) -> Iterator[tuple[str, str]]:
    """Functions of such a name that a module's methods reach where no name can be given another
    meaning, each with the reason."""
    held: list[tuple[str, Any]] = [
        (f"the attribute {name}", value) for name, value in vars(module).items() if name[0] != "_"
    ]
    seen: set[Any] = set()
    waiting = [function for _, _, _, function in methods(own_bases(type(module)))]
    while waiting:
        function = waiting.pop()
        if function in seen:
            continue
        seen.add(function)
        for path, value in mentioned(function):
            held.append((f"the {type(value).__name__} {'.'.join(path)}", value))
            if isinstance(value, FunctionType) and is_function(value):
                waiting.append(value)
        for name, cell in zip(
            function.__code__.co_freevars, function.__closure__ or (), strict=True
        ):
            if name != "__class__":
                held.append((f"{name}, a variable of an enclosing function", [_content(cell)]))
    said: set[str] = set()
    for where, value in held:
        for inner in _inside(value):
            if inner not in seen and is_named(inner):
                name = full_name(inner)
                if name not in said:
                    said.add(name)
                    yield name, f"it is called through {where}; a swap replaces names alone"


def class_attributes(cls: type) -> dict[str, Any]:
    """The functions that instances read from their class as they are: static methods and the
    `apply` of autograd Functions."""
    found: dict[str, Any] = {}
    for base in own_bases(cls):
        for name, value in vars(base).items():
            found.setdefault(name, value)
    return {
        name: value.__func__ if isinstance(value, staticmethod) else value
        for name, value in found.items()
        if not isinstance(value, FunctionType)
        and is_function(value.__func__ if isinstance(value, staticmethod) else value)
    }


def defaults(function: FunctionType) -> tuple[Any, ...]:
    return (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())


def mentioned(function: FunctionType) -> list[tuple[Path, Any]]:
    """What the global names in a function's code lead to, through modules and autograd Functions,
    with the names on the way."""
    found: dict[Path, Any] = {}
    if is_pure(function.__module__):
        return []
    for code in nested(function.__code__):
        path: Path = ()
        value: Any = _MISSING
        for step in steps(code):
            if step.opname == "LOAD_GLOBAL":
                path, value = (step.argval,), function.__globals__.get(step.argval, _MISSING)
            elif step.opname in LOADS and _leads_on(value):
                path, value = (*path, step.argval), getattr(value, step.argval, _MISSING)
            else:
                path, value = (), _MISSING
            if path and value is not _MISSING:
                found.setdefault(path, value)
    return list(found.items())


@functools.lru_cache(maxsize=1024)
def steps(code: CodeType) -> tuple[dis.Instruction, ...]:
    """The instructions of a code object, without those that only stand between others; kept,
    because all blocks of a class ask for the same ones.
    """
    return tuple(step for step in dis.get_instructions(code) if step.opname not in _BETWEEN)


def is_function(value: Any) -> bool:
    """A Python function that is not torch's, or the apply of an autograd Function."""
    if isinstance(value, FunctionType):
        return not is_pure(value.__module__)
    owner = getattr(value, "__self__", None)
    if not isinstance(owner, type) or not issubclass(owner, torch.autograd.Function):
        return False
    return _leads_on(owner) and value == owner.apply


def _leads_on(value: Any) -> bool:
    """Whether names are looked up in it: a Python module, or a class that is not torch's."""
    if isinstance(value, ModuleType):
        return not is_pure(value.__name__)
    return type(value) in (type, ABCMeta, type(torch.autograd.Function)) and not is_pure(
        value.__module__
    )


def _inside(value: Any) -> Iterator[Any]:
    """The functions in a container, in a partial, or called by the methods of a plain object."""
    if isinstance(value, functools.partial):
        yield from filter(is_function, [value.func])
    elif isinstance(value, dict):
        yield from filter(is_function, value.values())
    elif type(value) in (list, tuple):
        yield from filter(is_function, value)
    elif not isinstance(value, (nn.Module, torch.Tensor, type, ModuleType)) and not callable(value):
        for name, method in vars(type(value)).items():
            if isinstance(method, FunctionType) and not name.startswith("__"):
                yield from (inner for _, inner in mentioned(method) if is_function(inner))


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None
