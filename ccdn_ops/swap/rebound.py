"""Makes the modules of one model call other functions than the names in their code say.

A name in a module's globals belongs to every model whose code is there, so it is never bound anew.
A module gets a subclass of its class instead, as a replaced block does. In it, the methods that
call a replaced function are copies whose code mentions another global name, for instance
`_ccdn_ops_sqrtm_0`, which is added next to the original one and means the replacement. So

- two models of one class do not disturb each other, and nothing is switched while a model runs:
  there is no state that threads could share;
- copies have the globals, closures, defaults, file and lines of their originals: what else
  changes in a Python module is seen, and torch.compile, TorchScript and a debugger find the
  original's source;
- to undo it, a module gets its class back. The added names stay: methods that someone took from
  the module may still mention them.

Functions between a method and a replaced function are copied in the same way.
"""

from __future__ import annotations

import dis
from collections.abc import Callable, Iterator, Mapping
from types import CodeType, FunctionType, ModuleType
from typing import Any, cast
from weakref import WeakValueDictionary

import torch
from torch import nn

from .blocks import Unfit
from .code import _nested, _pure
from .functions import Replacement
from .swapped import subclass

_MISSING = object()
_LOADS = ("LOAD_ATTR", "LOAD_METHOD")
_BETWEEN = ("CACHE", "PUSH_NULL", "NOP", "EXTENDED_ARG", "PRECALL")
Path = tuple[str, ...]
Replacements = Mapping[Callable[..., Any], Replacement]


class Rebound(nn.Module):
    """A module whose methods call replacements of some functions."""

    _rebound_original = nn.Module
    _rebound_to: tuple[Replacement, ...] = ()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _restored, (self._rebound_original, self._rebound_to), dict(vars(self))


class View:
    """A Python module, or an autograd Function's class, of which some attributes are replaced."""

    def __init__(self, original: Any, replaced: dict[str, Any]) -> None:
        self._original, self._replaced = original, replaced
        vars(self).update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_original"], name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, View) and (self._original, self._replaced) == (
            other._original,
            other._replaced,
        )

    __hash__ = None  # type: ignore[assignment]


def called(
    module: nn.Module, known: Mapping[Callable[..., Any], Replacement | None]
) -> Iterator[Callable[..., Any]]:
    """The functions that a module's methods mention, callers before what they call, and those that
    are its attributes. Functions of torch and the like are none of them, nor is what a function
    calls that by then is known to be replaced."""
    seen: set[Any] = set()
    waiting = [function for _, _, function in _methods(type(module))]
    while waiting:
        for _, value in _mentioned(waiting.pop(0)):
            if _is_function(value) and value not in seen:
                seen.add(value)
                yield value
                if isinstance(value, FunctionType) and known.get(value) is None:
                    waiting.append(value)
    for value in vars(module).values():
        if _is_function(value) and value not in seen:
            seen.add(value)
            yield value


def rebind(module: nn.Module, replacements: Replacements) -> set[Callable[..., Any]]:
    """Makes a module call the replacements, and returns the functions that it no longer calls.

    Raises Unfit for a module that cannot have another class.
    """
    used: set[Callable[..., Any]] = set()
    body = _body(type(module), replacements, used)
    if body:
        _check(module)
        mine = tuple(r for f, r in replacements.items() if f in used)
        try:
            module.__class__ = _class(type(module), mine)
        except TypeError as error:
            raise Unfit(f"its class cannot be changed: {error}") from error
    for name, value in vars(module).items():
        if _is_function(value) and value in replacements:
            vars(module)[name] = replacements[value]
            used.add(value)
    return used


def release(module: nn.Module) -> bool:
    """Undoes `rebind`; whether there was anything to undo."""
    found = isinstance(module, Rebound)
    if found:
        module.__class__ = cast(Any, module)._rebound_original
    for name, value in vars(module).items():
        if isinstance(value, Replacement):
            vars(module)[name] = value.function
            found = True
    return found


def _check(module: nn.Module) -> None:
    cls = type(module)
    if isinstance(module, torch.jit.ScriptModule):
        raise Unfit("a TorchScript module calls it; swap before torch.jit.script")
    if "forward" in vars(module):
        raise Unfit("the forward of the module that calls it was replaced on the instance")
    if getattr(module, "_compiled_call_impl", None) is not None:
        raise Unfit("the module that calls it was compiled by itself; swap first, then compile")
    for name in ("__reduce__", "__reduce_ex__", "__deepcopy__", "__copy__"):
        own = getattr(cls, name, None)
        if own is not getattr(nn.Module, name, None):
            raise Unfit(f"the class of the module that calls it has its own {name}")


_classes: WeakValueDictionary[tuple[int, tuple[Replacement, ...]], type] = WeakValueDictionary()


def _class(original: type[nn.Module], replacements: tuple[Replacement, ...]) -> type[nn.Module]:
    """A subclass whose methods call the replacements, made once: it keeps its original alive."""
    made = _classes.get((id(original), replacements))
    if made is None:
        body = _body(original, {r.function: r for r in replacements}, set())
        body |= {"_rebound_original": original, "_rebound_to": replacements}
        made = subclass(Rebound, original, original, body)
        _classes[id(original), replacements] = made
    return made


def _restored(original: type[nn.Module], replacements: tuple[Replacement, ...]) -> nn.Module:
    cls = _class(original, replacements)
    return cls.__new__(cls)


def _methods(cls: type) -> Iterator[tuple[str, Any, FunctionType]]:
    """Name, definition and function of the methods of a class that another may override."""
    seen = {"__init__"}
    for base in cls.__mro__:
        if base is nn.Module or _pure(base.__module__):
            return
        for name, value in vars(base).items():
            function = value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
            if isinstance(function, FunctionType) and name not in seen:
                yield name, value, function
            seen.add(name)


def _body(cls: type, replacements: Replacements, used: set[Callable[..., Any]]) -> dict[str, Any]:
    """Copies of the methods that call a replaced function."""
    body: dict[str, Any] = {}
    copies: dict[FunctionType, FunctionType] = {}
    for name, value, function in _methods(cls):
        copied = _copied(function, replacements, used, copies)
        if copied is not function:
            wrapped = isinstance(value, (staticmethod, classmethod))
            body[name] = type(value)(copied) if wrapped else copied
    return body


def _copied(
    function: FunctionType,
    replacements: Replacements,
    used: set[Callable[..., Any]],
    copies: dict[FunctionType, FunctionType],
) -> FunctionType:
    """The function itself if it calls nothing that is replaced, else a copy that calls that."""
    if function in copies:
        return copies[function]
    copies[function] = function  # one that calls itself calls the original
    tree: dict[str, Any] = {}
    for path, value in _mentioned(function):
        other: Any = value
        if _is_function(value) and value in replacements:
            other = replacements[value]
        elif isinstance(value, FunctionType):
            other = _copied(value, replacements, used, copies)
        if other is not value and _can_be_renamed(function, path):
            if other is replacements.get(value):
                used.add(value)
            _put(tree, path, other)
    if tree:
        names = {
            name: _named(function.__globals__, name, _view(function.__globals__[name], part))
            for name, part in tree.items()
        }
        code = _renamed(function.__code__, names)
        made = FunctionType(
            code, function.__globals__, function.__name__, function.__defaults__,
            function.__closure__,
        )  # fmt: skip
        made.__kwdefaults__, made.__qualname__ = function.__kwdefaults__, function.__qualname__
        made.__module__, made.__doc__ = function.__module__, function.__doc__
        made.__annotations__ = dict(function.__annotations__)
        made.__dict__.update(function.__dict__)
        copies[function] = made
    return copies[function]


def _put(tree: dict[str, Any], path: Path, value: Any) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value


def _view(original: Any, part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    return View(
        original, {name: _view(getattr(original, name), inner) for name, inner in part.items()}
    )


def _named(scope: dict[str, Any], name: str, value: Any) -> str:
    """A global name that means the value; the same for equal values."""
    number = 0
    while True:
        other = f"_ccdn_ops_{name}_{number}"
        if scope.setdefault(other, value) == value:
            return other
        number += 1


def _renamed(code: CodeType, names: dict[str, str]) -> CodeType:
    return code.replace(
        co_names=tuple(names.get(name, name) for name in code.co_names),
        co_consts=tuple(
            _renamed(constant, names) if isinstance(constant, CodeType) else constant
            for constant in code.co_consts
        ),
    )


def _mentioned(function: FunctionType) -> list[tuple[Path, Any]]:
    """What the global names in a function's code lead to, through modules and autograd Functions,
    with the names on the way."""
    found: dict[Path, Any] = {}
    if _pure(function.__module__):
        return []
    for code in _nested(function.__code__):
        path: Path = ()
        value: Any = _MISSING
        for step in dis.get_instructions(code):
            if step.opname == "LOAD_GLOBAL":
                path, value = (step.argval,), function.__globals__.get(step.argval, _MISSING)
            elif step.opname in _LOADS and _leads_on(value):
                path, value = (*path, step.argval), getattr(value, step.argval, _MISSING)
            elif step.opname not in _BETWEEN:
                path, value = (), _MISSING
            if path and value is not _MISSING:
                found.setdefault(path, value)
    return list(found.items())


def _can_be_renamed(function: FunctionType, path: Path) -> bool:
    """Whether a global name is read only, and leads on wherever it is mentioned if it does here.

    A code object has one entry for a global name and an attribute of the same name.
    """
    for code in _nested(function.__code__):
        steps = [s for s in dis.get_instructions(code) if s.opname not in _BETWEEN]
        for step, after in zip(steps, [*steps[1:], steps[-1]], strict=True):
            if step.argval != path[0] or step.argval not in code.co_names:
                continue
            if step.opname != "LOAD_GLOBAL" and step.opname not in ("LOAD_FAST", "LOAD_CONST"):
                return False
            leads = step.opname == "LOAD_GLOBAL" and after.opname in _LOADS
            if step.opname == "LOAD_GLOBAL" and len(path) > 1 and not leads:
                return False
    return True


def _leads_on(value: Any) -> bool:
    if isinstance(value, ModuleType):
        return not _pure(value.__name__)
    return (
        isinstance(value, type)
        and issubclass(value, torch.autograd.Function)
        and not _pure(value.__module__)
    )


def _is_function(value: Any) -> bool:
    """A Python function that is not torch's, or the apply of an autograd Function."""
    if isinstance(value, FunctionType):
        return not _pure(value.__module__)
    owner = getattr(value, "__self__", None)
    return isinstance(owner, type) and _leads_on(owner) and value == getattr(owner, "apply", None)
