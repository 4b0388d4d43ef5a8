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

Functions between a method and a replaced function are copied in the same way. A method of a base
class that the module's own class reaches through `super()` is copied into a class that stands
between the two.
"""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Callable, Mapping
from types import CodeType, FunctionType
from typing import Any, cast
from weakref import WeakValueDictionary

import torch
from torch import nn

from .blocks import Unfit
from .classes import methods, own_bases
from .code import nested
from .mentions import (
    LOADS,
    Path,
    class_attributes,
    defaults,
    is_function,
    mentioned,
    steps,
)
from .replacement import Replacement
from .swapped import subclass

# What a class may define that a subclass of it would run, or lose.
_API = {"__copy__", "__deepcopy__", "__init_subclass__", "__reduce__", "__reduce_ex__"}
_COMPARISONS = ("IS_OP", "COMPARE_OP", "CONTAINS_OP")
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


def rebind(module: nn.Module, replacements: Replacements) -> set[Callable[..., Any]]:
    """Makes a module call the replacements, and returns the functions that it no longer calls.

    Raises Unfit for a module that cannot have another class.
    """
    used: set[Callable[..., Any]] = set()
    if _bodies(type(module), replacements, used):
        _check(module)
        mine = tuple(r for f, r in replacements.items() if f in used)
        try:
            module.__class__ = _class(type(module), mine)
        except TypeError as error:
            raise Unfit(f"its class cannot be changed: {error}") from error
    for name, value in vars(module).items():
        if is_function(value) and value in replacements:
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
    if type(cls) not in (type, ABCMeta):
        raise Unfit(f"the class of the module that calls it is a {type(cls).__name__}")
    for base in own_bases(cls):
        for name in _API & vars(base).keys():
            raise Unfit(f"the class of the module that calls it has its own {name}")


_classes: WeakValueDictionary[tuple[int, tuple[Replacement, ...]], type] = WeakValueDictionary()


def _class(original: type[nn.Module], replacements: tuple[Replacement, ...]) -> type[nn.Module]:
    """A subclass whose methods call the replacements, made once: it keeps its original alive."""
    made = _classes.get((id(original), replacements))
    if made is None:
        bodies = _bodies(original, {r.function: r for r in replacements}, set())
        body = bodies.pop(original, {})
        body |= {"_rebound_original": original, "_rebound_to": replacements}
        # In the order of resolution, each comes just before its base.
        between = [subclass(base, base, body=own) for base, own in bodies.items()]
        made = subclass(original, Rebound, original, *between, body=body)
        _classes[id(original), replacements] = made
    return made


def _restored(original: type[nn.Module], replacements: tuple[Replacement, ...]) -> nn.Module:
    cls = _class(original, replacements)
    return cls.__new__(cls)


def _bodies(
    cls: type, replacements: Replacements, used: set[Callable[..., Any]]
) -> dict[type, dict[str, Any]]:
    """Of a class and its bases, copies of the methods that call a replaced function, and what is
    meant instead of attributes that are one."""
    bodies: dict[type, dict[str, Any]] = {}
    copies: dict[FunctionType, FunctionType] = {}
    for base, name, value, function in methods(own_bases(cls)):
        if function in replacements:
            continue  # a static method, which is replaced as a whole
        copied = _copied(function, replacements, used, copies)
        if copied is not function:
            wrapped = isinstance(value, (staticmethod, classmethod))
            bodies.setdefault(base, {})[name] = type(value)(copied) if wrapped else copied
    for name, value in class_attributes(cls).items():
        if value in replacements:
            bodies.setdefault(cls, {})[name] = replacements[value]
            used.add(value)
    return bodies


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

    def instead(value: Any) -> Any:
        return replacements.get(value, value) if is_function(value) else value

    tree: dict[str, Any] = {}
    for path, value in mentioned(function):
        if not is_function(value) or not _can_be_renamed(function, path):
            continue  # before what it calls is copied, and counted as used
        other = instead(value)
        if other is not value:
            used.add(value)
        elif isinstance(value, FunctionType):
            other = _copied(value, replacements, used, copies)
        if other is not value:
            _put(tree, path, other)
    changed = {v for v in defaults(function) if instead(v) is not v}
    used |= changed
    if tree or changed:
        names = {
            name: _named(function.__globals__, name, _view(function.__globals__[name], part))
            for name, part in tree.items()
        }
        code = _renamed(function.__code__, names)
        positional = tuple(map(instead, function.__defaults__ or ())) or None
        made = FunctionType(
            code, function.__globals__, function.__name__, positional, function.__closure__
        )
        keywords = function.__kwdefaults__ or {}
        made.__kwdefaults__ = {n: instead(v) for n, v in keywords.items()} or None
        made.__qualname__ = function.__qualname__
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


def _can_be_renamed(function: FunctionType, path: Path) -> bool:
    """Whether a global name is read only, leads on wherever it is mentioned if it does here, and is
    compared with nothing: the replacement is another object.

    A code object has one entry for a global name and an attribute of the same name.
    """
    for code in nested(function.__code__):
        taken = steps(code)
        for step, after in zip(taken, (*taken[1:], taken[-1]), strict=True):
            if step.argval != path[0] or step.argval not in code.co_names:
                continue
            if step.opname != "LOAD_GLOBAL" and step.opname not in ("LOAD_FAST", "LOAD_CONST"):
                return False
            leads = step.opname == "LOAD_GLOBAL" and after.opname in LOADS
            if step.opname == "LOAD_GLOBAL" and len(path) > 1 and not leads:
                return False
        for at, step in enumerate(taken):
            near = {s.argval for s in taken[max(at - len(path) - 1, 0) : at]}
            if step.opname in _COMPARISONS and path[-1] in near:
                return False
    return True
