"""Reads what the code of a block depends on, apart from its input and its children.

A replacement runs none of that code, so everything that the code reads must be known: attributes
and constants of its module, which can be watched, and numbers, which may be sizes at which it
starts to do something else. A block whose code reads what cannot be watched (the environment, a
clock, another object), or that changes something, is not replaced.
"""

from __future__ import annotations

import builtins
import dis
import enum
import functools
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import nn

from .blocks import Unfit

# Modules whose functions depend on their arguments alone; random numbers are found by trying.
_PURE = {
    "__future__", "abc", "ccdn_ops", "collections", "contextlib", "einops", "enum", "functools",
    "itertools", "math", "numbers", "numpy", "operator", "torch", "types", "typing",
    "typing_extensions", "warnings",
}  # fmt: skip
_EFFECTS = {
    "__import__", "compile", "delattr", "eval", "exec", "globals", "id", "input", "locals", "open",
    "print", "setattr",
}  # fmt: skip
_DEVICES = {"cuda", "cpu", "mps", "xpu"}
_DEVICE_TESTS = {"is_cuda", "is_cpu", "is_mps", "is_xpu"}
_MISSING = object()
# Values of these types never change; a name may be bound to another value.
PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, enum.Enum)


class Reading:
    """What functions mention: names of attributes, constants of modules by module and name, numbers
    with the place where they stand, and compiled functions that are not Python's, torch's or the
    like.

    Functions that they call are read as well, wherever they can be found; torch's are known.
    Raises Unfit for what cannot be followed.
    """

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.constants: dict[tuple[str, str], Any] = {}
        self.numbers: dict[int, str] = {}
        self.compiled: set[str] = set()
        self._seen: set[CodeType] = set()

    def places(self) -> tuple[tuple[str, str, Any], ...]:
        """The constants as (module, name, value)."""
        return tuple((*place, self.constants[place]) for place in sorted(self.constants))

    def method(self, function: FunctionType) -> None:
        """A method of the block: it may not set anything."""
        self._function(function, method=True)

    def _function(self, function: FunctionType, method: bool = False) -> None:
        if function.__code__ in self._seen or is_pure(function.__module__):
            return
        self._seen.add(function.__code__)
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        for code in nested(function.__code__):
            self._code(code, function.__globals__, cells, method)
        keywords = function.__kwdefaults__ or {}
        for default in (*(function.__defaults__ or ()), *keywords.values()):
            self.value(default, "a default argument")

    def _code(
        self, code: CodeType, scope: dict[str, Any], cells: dict[str, Any], method: bool
    ) -> None:
        self.names.update(code.co_names)
        for constant in _flat(code.co_consts):
            if isinstance(constant, str):
                self.names.add(constant)
            self.number(constant, "")
        asked = _DEVICE_TESTS & set(code.co_names) or _DEVICES & set(_flat(code.co_consts))
        if asked:
            raise Unfit(f"its code asks for the device ({min(asked)}), which no probe can change")
        read: _Name | None = None
        for step in dis.get_instructions(code):
            operation, argument = step.opname, step.argval
            if step.argrepr in ("@", "@=") or "MATRIX_MULTIPLY" in operation:
                self.names.add("matmul")
            if operation in ("STORE_GLOBAL", "DELETE_GLOBAL") or (
                operation in ("STORE_DEREF", "DELETE_DEREF") and argument in cells
            ):
                raise Unfit(f"its code sets {argument}, which its replacement would not")
            sets = operation in ("STORE_ATTR", "DELETE_ATTR")
            if sets and (method or (read is not None and read.value is not _MISSING)):
                raise Unfit(f"its code sets {argument}, which its replacement would not")
            if operation == "IMPORT_NAME" and not is_pure(argument):
                raise Unfit(f"its code imports {argument}, which a swap cannot follow")
            if operation in ("LOAD_GLOBAL", "LOAD_NAME"):
                self._use(read)
                read = _global(argument, scope)
            elif operation in ("LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_CLOSURE"):
                self._use(read)
                read = _free(argument, cells)
            elif operation in ("LOAD_ATTR", "LOAD_METHOD") and read is not None:
                read = self._attribute(read, argument)
            elif operation not in ("CACHE", "PUSH_NULL", "NOP", "EXTENDED_ARG", "COPY", "DUP_TOP"):
                self._use(read)
                read = None
        self._use(read)

    def _attribute(self, owner: _Name, attribute: str) -> _Name | None:
        """What an attribute of a module or a class is; None if it does not matter."""
        value, name = owner.value, f"{owner.name}.{attribute}"
        if isinstance(value, ModuleType):
            if is_pure(value.__name__):
                return None
            if value.__name__.partition(".")[0] in sys.stdlib_module_names:
                raise Unfit(f"its code reads {name}, which may change")
            return _Name(name, getattr(value, attribute, _MISSING), (value.__name__, attribute))
        if isinstance(value, FunctionType) and attribute in vars(value):
            raise Unfit(f"its code reads {name}, which may change")
        if not isinstance(value, type) or issubclass(value, torch.autograd.Function):
            self._use(owner)
            return None
        if is_pure(value.__module__) or issubclass(value, nn.Module):
            return None  # a block's own class is read with its attributes
        return _Name(name, getattr(value, attribute, _MISSING), None)

    def _use(self, read: _Name | None) -> None:
        """A value that is read by a name that is not an attribute of the block."""
        if read is None or read.value is _MISSING:
            return
        value, name = read.value, read.name
        if isinstance(value, ModuleType):
            top = value.__name__.partition(".")[0]
            if not is_pure(top) and top in sys.stdlib_module_names:
                raise Unfit(f"its code reads the module {name}, which may change")
        elif isinstance(value, enum.Enum) and read.place is None:
            pass  # a member of its class
        elif isinstance(value, PLAIN) and read.place is not None:
            self.constants[read.place] = value
            self.number(value, name)
        elif not self.callable(value):
            raise Unfit(f"its code reads {name} ({type(value).__name__}), which may change")

    def callable(self, value: object) -> bool:
        """Reads a function or a class; False for anything else."""
        if isinstance(value, staticmethod):
            value = value.__func__
        if isinstance(value, FunctionType):
            self._function(value)
        elif isinstance(value, functools.partial):
            self.value([value.func, value.args, value.keywords], "a partial's argument")
        elif isinstance(value, functools._lru_cache_wrapper):
            self.callable(value.__wrapped__)
        elif isinstance(value, MethodType) and isinstance(value.__self__, type):
            self.callable(value.__self__)
            if isinstance(value.__func__, FunctionType):
                self._function(value.__func__)
        elif isinstance(value, type):
            if issubclass(value, torch.autograd.Function) and not is_pure(value.__module__):
                for own in vars(value).values():
                    self.callable(own)
        elif isinstance(value, BuiltinFunctionType):
            top = (value.__module__ or "builtins").partition(".")[0]
            if isinstance(value.__self__, (type, ModuleType, type(None))):
                if top in sys.stdlib_module_names and not is_pure(top) and top != "builtins":
                    raise Unfit(f"its code calls {top}.{value.__name__}(), which may change")
                if top != "builtins" and not is_pure(top):
                    self.compiled.add(f"{value.__module__}.{value.__name__}")
            elif not is_pure(type(value.__self__).__module__):
                raise Unfit(f"its code calls a method of a {type(value.__self__).__name__}")
        else:
            module = getattr(type(value), "__module__", "")
            # torch's own: overloads of operators, functions that dispatch, scripted functions.
            return callable(value) and is_pure(module) and not isinstance(value, nn.Module)
        return True

    def value(self, value: object, name: str) -> None:
        """The numbers in a plain value of an attribute or a default argument."""
        for part in _flat([value]):
            self.number(part, name)
            if callable(part):
                self.callable(part)

    def number(self, value: object, name: str) -> None:
        if type(value) is int or (type(value) is float and 8 <= abs(value) < 2**62):
            size = abs(int(value))
            if size > 1:
                self.numbers.setdefault(size, f"{name} = {value}" if name else str(value))


@dataclass(frozen=True)
class _Name:
    """What a name in code refers to, and the module that it can be looked up in, if any."""

    name: str
    value: object
    place: tuple[str, str] | None


def _global(name: str, scope: dict[str, Any]) -> _Name:
    if name in scope:
        module = scope.get("__name__", "")
        known = vars(sys.modules[module]) is scope if module in sys.modules else False
        return _Name(name, scope[name], (module, name) if known else None)
    if name in _EFFECTS:
        raise Unfit(f"its code calls {name}(), which its replacement would not")
    return _Name(name, getattr(builtins, name, _MISSING), None)


def _free(name: str, cells: dict[str, Any]) -> _Name:
    """A variable of an enclosing function; a local of the same name has no value here."""
    if name not in cells:
        return _Name(name, _MISSING, None)
    try:
        return _Name(name, cells[name].cell_contents, None)
    except ValueError:
        raise Unfit(f"its code reads {name}, which has no value yet") from None


def is_pure(module: str | None) -> bool:
    return (module or "").partition(".")[0] in _PURE


def nested(code: CodeType) -> Iterator[CodeType]:
    """A function's code with that of the functions and comprehensions inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from nested(constant)


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, dict):
            yield from _flat(value.values())
        elif isinstance(value, (tuple, list, set, frozenset)):
            yield from _flat(value)
        else:
            yield value
