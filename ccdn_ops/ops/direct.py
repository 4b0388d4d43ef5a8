"""The direct way of an eager call: past the checks, the dispatcher and the look-ups.

A call takes it only where nobody else may watch or change what happens: exact tensors whose
dispatch keys are those of plain memory, no mode, no transform, no trace, no profiler, no hooks of
saved tensors. Everything else goes the general way (autograd.py), whose results are the same.

The checks, the choice of a backend, its plan and its argument struct depend on the call's
signature alone: sizes, strides, dtypes, options, threads, the backend asked for. They are done once
for each, and what is left to do is kept, as a Bound (backends/registry.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ccdn_ops.backends import registry
from ccdn_ops.backends.registry import Bound
from ccdn_ops.ops import recent
from ccdn_ops.ops.operator import Operator
from ccdn_ops.ops.plain import compiling, plain, signature, undisturbed

# Signatures that are kept of one operator; with one more, all are forgotten.
KEPT = 1024
# Those of them that are looked at first.
RECENT = 64
# Kinds of gradients that are kept of one signature: of some of the outputs only, of other strides.
EXPECTED = 4

_all: list[Direct] = []


def forget() -> None:
    """Drop all that is kept of earlier calls, of every operator."""
    for calls in _all:
        calls.forget()


class Direct:
    """The direct calls of one operator."""

    def __init__(self, record: Operator, general: Callable[..., Any], extra: int = 0) -> None:
        """`general` is the backward pass of the general way: (gradients, inputs, saved, options)
        -> the gradients of the inputs. Its last `extra` options are None here."""
        self.record = record
        saves = tuple(record.option_types)[-1:] == ("save",)
        self.ends = (True,) * saves, (None,) * extra
        self.options = len(record.option_types) - saves  # how many the user gives
        self.kept: dict[Any, _Call] = {}
        self.seen: set[Any] = set()
        self.function: Any = _function(general, record.name)
        # What Function.apply does when no transform of torch.func is active.
        self.apply = super(torch.autograd.Function, self.function).apply  # type: ignore[misc]
        self.recent: Any = None
        self.serve: Any = None  # the recent calls' own
        self.forget()
        _all.append(self)

    def forget(self) -> None:
        """Drop all that is kept of earlier calls."""
        self.kept.clear()
        self.seen.clear()
        self.recent = recent.recent(self.apply, RECENT)
        self.serve = self.recent.serve

    def __call__(self, inputs: tuple[Any, ...], options: tuple[Any, ...]) -> Any:
        """The public outputs, a tensor or a tuple; None where the call must go the general way.

        inputs and options are as the user gave them, unchecked; options are those of the schema,
        without `save`. A signature's first call goes the general way; its second is learnt.
        """
        if compiling():  # torch.compile traces this
            return None
        found = self.serve(inputs, options, registry.state())
        if found is not None or not undisturbed():
            return found
        key = _key(inputs, options)
        call = None if key is None else self.kept.get(key)
        if call is None:
            return None
        self.recent.add(inputs, options, call.state, call)
        return recent.run(call, self.apply, inputs)

    def learn(self, inputs: tuple[Any, ...], options: tuple[Any, ...]) -> Any:
        """As a call, of arguments that were checked; the second one of a signature is kept."""
        if not undisturbed():
            return None
        key = _key(inputs, options)
        if key is None or any(x is not None and x.numel() == 0 for x in inputs):
            return None
        call = self.kept.get(key)
        if call is None:
            if key not in self.seen:  # sizes that never come again are not worth a Bound
                if len(self.seen) >= KEPT:
                    self.seen.clear()
                self.seen.add(key)
                return None
            save, rest = self.ends
            bound = self._bound(inputs, (*options, *save)) or self._of_kernels(options)
            state, threads = key[-2:]
            # A backend was loaded, or another thread chose one.
            if registry.state() is not state or torch.get_num_threads() != threads:
                return None
            call = _Call(bound, (*options, *save, *rest), state)
            if len(self.kept) >= KEPT:
                self.kept.clear()
            self.kept[key] = call
        return recent.run(call, self.apply, inputs)

    def _bound(self, inputs: Sequence[Any], options: Sequence[Any]) -> Bound | None:
        """Of the backend that serves the call, if it makes one."""
        record, (first, *others) = self.record, inputs
        asked = first.flatten(2) if record.flat else first
        find = registry.offered if record.parts else registry.select
        found = find(record.name, asked, *others, *options)
        return None if found is None or found.bind is None else found.bind(*inputs, *options)

    def _of_kernels(self, options: Sequence[Any]) -> Bound:
        """Of the raw operator's own kernels, which choose the backend at every call."""
        record, count, (save, _) = self.record, self.record.outputs, self.ends
        kernel, differentiate = record.kernel, record.backward
        assert kernel is not None
        assert differentiate is not None
        listed = "Tensor[]" in record.inputs.values()
        states = len(record.returns) - count

        def run(inputs: tuple[Any, ...], *save: bool) -> tuple[Any, tuple[Tensor, ...]]:
            found = kernel(*([inputs] if listed else inputs), *options, *save)
            if isinstance(found, Tensor):
                return found, ()
            return found[0] if count == 1 else tuple(found[:count]), tuple(found[count:])

        def backward(grads: Sequence[Any], saved: Sequence[Any]) -> Sequence[Any]:
            inputs = saved[: len(saved) - states]
            given = (inputs, *saved[len(inputs) :]) if listed else saved
            found = differentiate(*grads, *given, *options, *save)
            found = (found,) if isinstance(found, Tensor) else found
            return [g if x is not None else None for g, x in zip(found, inputs, strict=False)]

        return Bound(
            inference=lambda *inputs: run(inputs, *(False for _ in save))[0],
            forward=lambda *inputs: run(inputs, *save),
            backward=backward,
            unpacked=lambda saved: saved,
        )


def _key(inputs: Sequence[Any], options: Sequence[Any]) -> tuple[Any, ...] | None:
    """All that a Bound depends on; None for what no Bound serves."""
    described = signature(inputs)
    if described is None:
        return None
    for option in options:
        kind = type(option)
        if kind is not int and kind is not bool:
            return None
        described += kind, option  # 1 == True, but the checks tell them apart
    return *described, registry.state(), torch.get_num_threads()


def titled(operator: str) -> str:
    """The name of the operator's Function; its node in the graph has Backward behind it."""
    return "".join(word.capitalize() for word in operator.split("_"))


class _Call:
    """A signature, what is bound for it, and what its backward pass may take for granted."""

    __slots__ = ("bound", "count", "expected", "options", "results", "saved", "state")

    def __init__(self, bound: Bound, options: tuple[Any, ...], state: registry.State) -> None:
        self.bound, self.options, self.state = bound, options, state
        self.expected: tuple[Any, ...] = ()  # recent.Expected
        self.count = 0  # of the inputs
        self.results: tuple[Any, ...] = ()  # (sizes, dtype) of each output
        self.saved: tuple[Any, ...] | None = None  # signature of the inputs and of what is saved


def _function(general: Callable[..., Any], name: str) -> Any:
    """A Function whose first argument is the _Call."""

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, call: _Call, *inputs: Any) -> Any:
            outputs, saved = call.bound.forward(*inputs)
            if call.saved is None:
                given = outputs if type(outputs) is tuple else (outputs,)
                call.count = len(inputs)
                call.results = tuple((y.shape, y.dtype) for y in given)
                call.saved = signature((*inputs, *saved))
            ctx.call = call
            ctx.save_for_backward(*inputs, *saved)
            ctx.set_materialize_grads(False)
            return outputs

        @staticmethod
        def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
            call, saved = ctx.call, ctx.saved_tensors
            if registry.state() is call.state:  # use_backend may end before
                for expected in call.expected:
                    if expected.fits(grads, saved):
                        return (None, *call.bound.backward(grads, saved))
                if _served(grads, saved, call):
                    if len(call.expected) < EXPECTED:
                        call.expected = *call.expected, recent.expected(grads, saved)
                    return (None, *call.bound.backward(grads, saved))
            count = call.count
            if all(grad is None for grad in grads):
                return (None,) * (1 + count)
            inputs, states = saved[:count], call.bound.unpacked(saved[count:])
            return (None, *general(grads, inputs, states, call.options))

    return type(titled(name), (Function,), {})  # its node is named after it


def _served(grads: Sequence[Tensor | None], saved: Sequence[Any], call: _Call) -> bool:
    """Whether the Bound serves these gradients and saved tensors, and nobody watches."""
    if torch.is_grad_enabled() or not undisturbed() or not _given(grads, call.results):
        return False
    return call.saved is not None and signature(saved) == call.saved


def _given(grads: Sequence[Tensor | None], results: Sequence[Any]) -> bool:
    """Whether there are gradients, all of them plain tensors like the outputs but for their
    strides."""
    found = False
    for grad, (shape, dtype) in zip(grads, results, strict=True):
        if grad is None:
            continue
        if (
            type(grad) is not Tensor
            or not plain(grad)
            or grad.dtype is not dtype
            or grad.shape != shape
        ):
            return False
        found = True
    return found
