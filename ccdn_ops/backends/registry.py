"""Which backend serves which operator on which device.

The folder of an operator has one module for each backend that serves it, named after the backend.
The module calls `register` when it is imported, and it is imported the first time that it could
serve a tensor. So `import ccdn_ops` imports no backend that the process does not use.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ccdn_ops.names import PACKAGE

BACKENDS = ("reference", "cpu", "triton", "cuda")

# The backends tried, in this order, for each device type; other devices get the reference.
ORDER = {"cuda": ("cuda", "triton", "reference"), "cpu": ("cpu", "reference")}


@dataclass(frozen=True)
class Implementation:
    """What a backend registers for one operator; the operator's spec.py is the contract."""

    operator: str
    backend: str
    forward: Callable[..., Any]
    backward: Callable[..., Any]
    supports: Callable[..., str | None]
    bind: Callable[..., Bound | None] | None = None


class Bound(NamedTuple):
    """What is left to do of a call whose signature is known; ops/direct.py keeps it.

    inputs are the operator's, of the sizes, strides and dtypes that it was bound for, in the CPU's
    memory and not empty. The number of threads is the same, too.

      inference(*inputs) -> the public outputs, a tensor or a tuple
      forward(*inputs) -> those, and a tuple of what is saved, in any form
      backward(gradients, (*inputs, *saved)) -> the gradients of the inputs; a gradient of an output
          may be None, but not all, and have any strides
      unpacked(saved) -> what the schema calls saved
    """

    inference: Callable[..., Any]
    forward: Callable[..., tuple[Any, tuple[Tensor, ...]]]
    backward: Callable[..., Sequence[Tensor | None]]
    unpacked: Callable[[Sequence[Tensor]], Sequence[Tensor]]


_implementations: dict[tuple[str, str], Implementation] = {}
_load_errors: dict[tuple[str, str], str] = {}


def register(
    operator: str,
    *,
    backend: str,
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    supports: Callable[..., str | None] = lambda *_: None,
    bind: Callable[..., Bound | None] | None = None,
) -> None:
    """Offer a backend's kernels for an operator.

    `forward` and `backward` take the arguments of the operator's two schemas. `supports` takes
    the arguments of the forward schema, whose tensors may be fake (shape, strides, dtype and device
    are real, data are not), and returns None, or why this backend cannot serve them.

    `bind`, which may be left out, takes the operator's inputs and its options without `save`, and
    returns a Bound for calls like this one, or None.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}; expected one of {', '.join(BACKENDS)}")
    _implementations[operator, backend] = Implementation(
        operator, backend, forward, backward, supports, bind
    )
    with _lock:
        _change(version=_state.version + 1)


def _checked(name: str | None, source: str) -> str | None:
    if name is not None and name not in BACKENDS:
        raise ValueError(f"{source} is {name!r}; expected one of {', '.join(BACKENDS)}")
    return name


_environment = _checked(os.environ.get("CCDN_OPS_BACKEND") or None, "CCDN_OPS_BACKEND")


class _Choice(NamedTuple):
    backend: str | None
    mark: object  # two blocks with the same backend are two separate choices


# The blocks that are active, in the order they were entered. Each removes its own choice when it
# ends. If a block restored the value it found, two threads could leave the other's in place.
_chosen: list[_Choice] = []


class State(NamedTuple):
    """All that decides which implementation serves a call, apart from the call."""

    override: str | None  # the backend requested by name
    version: int  # another one after every registration


_lock = threading.Lock()  # of the blocks and of the state
_state = State(_environment, 0)
_states = {_state: _state}


def _change(version: int | None = None) -> None:
    global _state
    asked = _chosen[-1].backend if _chosen else _environment
    found = State(asked, _state.version if version is None else version)
    _state = _states.setdefault(found, found)


def state() -> State:
    """The same object as long as nothing changes, and again when it is as it was."""
    return _state


def override() -> str | None:
    """The backend requested by name (use_backend, CCDN_OPS_BACKEND), or None."""
    return _state.override


@contextmanager
def use_backend(name: str | None) -> Iterator[None]:
    """Serve every operator from one backend: "reference", "cpu", "triton" or "cuda".

    None returns to the choice by device. The choice is process-wide, because autograd may run a
    backward pass in another thread; if several threads enter a block, the last one decides for all.
    A call that the named backend cannot serve raises RuntimeError; nothing falls back. Raises
    ValueError for an unknown name, and RuntimeError inside a function that is being compiled: a
    graph holds the operator, not the choice, so put the block around its calls.
    """
    if torch.compiler.is_compiling():
        raise RuntimeError("use_backend does nothing inside torch.compile; put it around the call")
    with asked_for(name):
        yield


@contextmanager
def asked_for(name: str | None) -> Iterator[None]:
    """use_backend that also works while a graph is made, for code that runs kernels to see them."""
    choice = _Choice(_checked(name, "backend"), object())
    with _lock:
        _chosen.append(choice)
        _change()
    try:
        yield
    finally:
        with _lock:
            _chosen.remove(choice)
            _change()


def load(operator: str, backend: str) -> Implementation | None:
    """The backend's implementation of the operator, imported on first use; None without one."""
    key = operator, backend
    if key in _implementations:
        return _implementations[key]
    if key in _load_errors:
        return None
    name = f"{PACKAGE}.ops.{operator}.{backend}"
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        found = None
    if found is None:
        _load_errors[key] = f"the {backend} backend has no {operator}"
        return None
    if backend == "triton" and importlib.util.find_spec("triton") is None:
        _load_errors[key] = "triton is not installed; `pip install triton` (Linux)"
        return None
    importlib.import_module(name)
    if key not in _implementations:
        raise RuntimeError(f"{name} registered nothing for {operator} on {backend}")
    return _implementations[key]


def why_not(operator: str, backend: str, x: Tensor, *arguments: Any) -> str | None:
    """Why this backend cannot serve the call; None when it can."""
    implementation = load(operator, backend)
    if implementation is None:
        return _load_errors[operator, backend]
    return implementation.supports(x, *arguments)


def select(operator: str, x: Tensor, *arguments: Any) -> Implementation:
    """The implementation that serves the call; RuntimeError if one requested by name cannot."""
    named = override()
    if named is not None:
        reason = why_not(operator, named, x, *arguments)
        if reason is not None:
            raise RuntimeError(
                f"ccdn_ops.{operator} was asked to use the backend {named!r}, which cannot "
                f"serve {tuple(x.shape)} {x.dtype} on {x.device}: {reason}"
            )
        return _implementations[operator, named]
    for backend in ORDER.get(x.device.type, ("reference",)):
        implementation = load(operator, backend)
        if implementation is not None and implementation.supports(x, *arguments) is None:
            return implementation
    raise RuntimeError(f"no backend serves ccdn_ops.{operator}")  # the reference serves all


def offered(operator: str, x: Tensor, *arguments: Any) -> Implementation | None:
    """The implementation that serves the call; None when the operator's parts serve it.

    For operators composed of others, which a backend may implement only in parts.
    """
    order = ORDER.get(x.device.type, ("reference",))
    named = override()
    for backend in (named,) if named is not None else order:
        if backend == "reference":  # it registers only parts; the whole is there for the reader
            continue
        implementation = load(operator, backend)
        if implementation is not None and implementation.supports(x, *arguments) is None:
            return implementation
    return None
