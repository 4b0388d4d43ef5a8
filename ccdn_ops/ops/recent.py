"""Whether a direct call is like an earlier one, by one check in C++.

csrc/torch has both classes without Python; they are used where it is built for this
torch.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ccdn_ops.backends import compiled
from ccdn_ops.layout import is_aligned
from ccdn_ops.ops.plain import sized, undisturbed

_grad_enabled = torch.is_grad_enabled
_threads = torch.get_num_threads
_hooks_of_saved = torch._C._autograd._top_saved_tensors_default_hooks
_Guards: Any = getattr(torch._C._dynamo.guards, "TensorGuards", None)


def guard(tensors: Sequence[Any]) -> Callable[..., bool] | None:
    """A check in C++ whether others are like these plain tensors: type, dispatch keys and this
    thread's changes to them, dtype, device, sizes, strides, whether they need a gradient.

    None where one is None, or where this torch does not have what torch.compile uses. The check
    must get tensors that are `sized`: another one makes it end the process.
    """
    if _Guards is None or any(x is None for x in tensors):
        return None
    sizes, strides = [list(x.shape) for x in tensors], [list(x.stride()) for x in tensors]
    return _Guards(*tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides).check


class Recent:
    """The calls that an operator has served, the last one of each size of the first input."""

    def __init__(self, apply: Callable[..., Any], most: int) -> None:
        """`apply` is that of the Function, whose first argument is the call; `most` are kept."""
        self.apply, self.most = apply, most
        # With the gradient that the first input needs apart from without.
        self.kept: tuple[dict[Any, _Call], dict[Any, _Call]] = {}, {}

    def __len__(self) -> int:
        return max(map(len, self.kept))

    def add(self, inputs: tuple[Any, ...], options: tuple[Any, ...], state: Any, call: Any) -> None:
        """Keep a call, whose inputs are plain tensors or None; `state` is the registry's."""
        x = inputs[0]
        check = guard(inputs) if type(x) is Tensor else None
        if check is None:
            return
        kept = self.kept[x.requires_grad]
        if len(kept) >= self.most:
            kept.clear()
        kept[x.shape] = _Call(call, check, len(inputs), options, state, _threads())

    def serve(self, inputs: tuple[Any, ...], options: tuple[Any, ...], state: Any) -> Any:
        """The public outputs of a call that is like a kept one; None for any other."""
        if not undisturbed():
            return None
        x = inputs[0] if inputs else None
        if type(x) is not Tensor or not sized(inputs):
            return None
        recent = self.kept[x.requires_grad].get(x.shape)
        if recent is None or not recent.serves(inputs, options, state):
            return None
        return run(recent.call, self.apply, inputs)


class _Call:
    __slots__ = ("call", "check", "count", "options", "state", "threads")

    def __init__(self, call: Any, check: Callable[..., bool], count: int, *rest: Any) -> None:
        self.call, self.check, self.count = call, check, count
        self.options, self.state, self.threads = rest

    def serves(self, inputs: Sequence[Any], options: Sequence[Any], state: Any) -> bool:
        """Whether a call is like this one for sure; the inputs are sized."""
        if len(inputs) != self.count or not self.check(*inputs):
            return False
        if not all(map(is_aligned, inputs)):
            return False
        # Not ==, for which 1 is True; the checks tell them apart.
        same = all(map(operator.is_, options, self.options))
        return same and state is self.state and _threads() == self.threads


class Expected:
    """What a backward pass was given when it went directly: gradients and saved tensors."""

    def __init__(self, grads: tuple[Any, ...], saved: tuple[Any, ...]) -> None:
        self.check = guard((*grads, *saved))

    def fits(self, grads: tuple[Any, ...], saved: tuple[Any, ...]) -> bool:
        """Whether these are alike and nobody watches, and no derivative of this is asked for."""
        if self.check is None or _grad_enabled() or not undisturbed():
            return False
        tensors = (*grads, *saved)
        return sized(tensors) and self.check(*tensors) and all(map(is_aligned, tensors))


def run(call: Any, apply: Callable[..., Any], inputs: Sequence[Any]) -> Any:
    """The public outputs; None where the saved tensors would not be those of the general way."""
    if _grad_enabled():
        for x in inputs:
            if x is not None and x.requires_grad:
                return None if _hooks_of_saved(False) else apply(call, *inputs)
    return call.bound.inference(*inputs)


def recent(apply: Callable[..., Any], most: int) -> Any:
    """A Recent in C++, or else in Python."""
    module = compiled.module()
    return (Recent if module is None else module.Recent)(apply, most)


def expected(grads: tuple[Any, ...], saved: tuple[Any, ...]) -> Any:
    """An Expected in C++, or else in Python."""
    module = compiled.module()
    return (Expected if module is None else module.Expected)(grads, saved)
