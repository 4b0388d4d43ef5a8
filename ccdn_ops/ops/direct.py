"""The direct way of an eager call: past the checks, the dispatcher and the look-ups.

A call takes it only where nobody else may watch or change what happens: exact tensors whose
dispatch keys are those of plain memory, no mode, no transform, no trace, no profiler, no hooks of
saved tensors. Everything else goes the general way (autograd.py), whose results are the same.

The checks, the choice of a backend, its plan and its argument struct depend on the call's
signature alone: sizes, strides, dtypes, options, threads, the backend asked for. They are done once
for each, and what is left to do is kept, as a Bound (backends/registry.py).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad, profiler
from torch.nn import Parameter

from ccdn_ops.backends import registry
from ccdn_ops.backends.registry import Bound
from ccdn_ops.ops.operator import Operator

# Signatures that are kept of one operator; with one more, all are forgotten.
KEPT = 1024

# Every look-up of a name counts here.
_compiling = torch.compiler.is_compiling
_grad_enabled = torch.is_grad_enabled
_threads = torch.get_num_threads
_dispatch_keys = torch._C._dispatch_keys
_transforms = torch._C._are_functorch_transforms_active
_tracing = torch._C._is_tracing
_function_modes = torch._C._len_torch_function_stack
_dispatch_modes = torch._C._len_torch_dispatch_stack
_profiled = torch._C._autograd._profiler_enabled
_hooks_of_saved = torch._C._autograd._top_saved_tensors_default_hooks
_Guards: Any = getattr(torch._C._dynamo.guards, "TensorGuards", None)


def _plain_keys() -> frozenset[int]:
    """The dispatch keys of a tensor in the CPU's memory, made within inference mode or not.

    With any other key a tensor has no such memory, or it is to be read otherwise: of another device
    or layout, a negative view, functional, mapped over, a subclass that dispatches by itself.
    """
    found = []
    for mode in (False, True):  # whatever block this is imported in
        with torch.inference_mode(mode):
            found.append(_dispatch_keys(torch.empty(0, device="cpu")).raw_repr())
    return frozenset(found)


PLAIN = _plain_keys()


def signature(tensors: Sequence[Any]) -> tuple[Any, ...] | None:
    """Sizes, strides and dtypes of plain tensors, or None for None; None if one is not plain."""
    found: list[Any] = []
    for x in tensors:
        if x is None:
            found.append(None)
            continue
        kind = type(x)
        if (kind is not Tensor and kind is not Parameter) or _dispatch_keys(
            x
        ).raw_repr() not in PLAIN:
            return None
        found += (x.shape, x.stride(), x.dtype)
    return tuple(found)


def sized(tensors: Sequence[Any]) -> bool:
    """Whether all are exactly tensors or parameters that have sizes to read, which a nested one has
    not."""
    for x in tensors:
        kind = type(x)
        if (kind is not Tensor and kind is not Parameter) or x.is_nested:
            return False
    return True


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


def undisturbed() -> bool:
    """Whether nobody watches or changes what this thread does, as far as torch tells."""
    return not (
        _compiling()
        or _transforms()
        or _dispatch_modes()
        or _function_modes()
        or _tracing()
        or _profiled()
        or profiler._is_profiler_enabled  # by another thread, perhaps for this one too
        or forward_ad._current_level >= 0
    )


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
        # By the sizes of the first input; with the gradient that it needs apart from without.
        self.recent: tuple[dict[Any, _Recent], dict[Any, _Recent]] = {}, {}
        self.function: Any = _function(general, record.name)
        # What Function.apply does when no transform of torch.func is active.
        self.apply = super(torch.autograd.Function, self.function).apply  # type: ignore[misc]

    def __call__(self, inputs: Sequence[Any], options: Sequence[Any]) -> Any:
        """The public outputs, a tensor or a tuple; None where the call must go the general way.

        inputs and options are as the user gave them, unchecked; options are those of the schema,
        without `save`. A signature's first call goes the general way; its second is learnt.
        """
        if not undisturbed():
            return None
        x = inputs[0] if inputs else None
        if type(x) is Tensor and sized(inputs):
            # Most calls are like the last one of these sizes, which one check tells.
            recent = self.recent[x.requires_grad].get(x.shape)
            if recent is not None and recent.serves(inputs, options):
                return self._run(recent.call, inputs)
        key = _key(inputs, options)
        call = None if key is None else self.kept.get(key)
        if call is None:
            return None
        if type(x) is Tensor:
            check = guard(inputs)
            if check is not None:
                recently = self.recent[x.requires_grad]
                if len(recently) >= KEPT:
                    recently.clear()
                recently[x.shape] = _Recent(call, check, len(inputs), tuple(options))
        return self._run(call, inputs)

    def learn(self, inputs: Sequence[Any], options: Sequence[Any]) -> Any:
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
            state = key[-STATE:]
            if _state() != state:  # a backend was loaded, or another thread chose one
                return None
            call = _Call(bound, (*options, *save, *rest), state)
            if len(self.kept) >= KEPT:
                self.kept.clear()
            self.kept[key] = call
        return self._run(call, inputs)

    def _run(self, call: _Call, inputs: Sequence[Any]) -> Any:
        if _grad_enabled():
            for x in inputs:
                if x is not None and x.requires_grad:
                    # The saved tensors would not be those of the general way.
                    return None if _hooks_of_saved(False) else self.apply(call, *inputs)
        return call.bound.inference(*inputs)

    def _bound(self, inputs: Sequence[Any], options: Sequence[Any]) -> Bound | None:
        """Of the backend that serves the call, if it makes one."""
        record, (first, *others) = self.record, inputs
        if record.bind is not None:
            return record.bind(*inputs, *options)
        if record.parts:
            return None
        asked = first.flatten(2) if record.flat else first
        bind = registry.select(record.name, asked, *others, *options).bind
        return None if bind is None else bind(*inputs, *options)

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
    return *described, *_state()


STATE = 3  # what _state() returns, at the end of a key


def _state() -> tuple[Any, ...]:
    """All that a Bound depends on and a call does not say."""
    return registry.override(), registry.version(), _threads()


class _Recent:
    """A call that was served, and what tells that another one is like it."""

    __slots__ = ("call", "check", "count", "options")

    def __init__(
        self, call: _Call, check: Callable[..., bool], count: int, options: tuple[Any, ...]
    ) -> None:
        self.call, self.check, self.count, self.options = call, check, count, options

    def serves(self, inputs: Sequence[Any], options: Sequence[Any]) -> bool:
        """Whether this is so for sure; the inputs are sized."""
        if len(inputs) != self.count or not self.check(*inputs) or _state() != self.call.state:
            return False
        # Not ==, for which 1 is True; the checks tell them apart.
        return all(map(operator.is_, options, self.options))


def titled(operator: str) -> str:
    """The name of the operator's Function; its node in the graph has Backward behind it."""
    return "".join(word.capitalize() for word in operator.split("_"))


class _Call:
    """A signature, what is bound for it, and what its backward pass may take for granted."""

    __slots__ = ("bound", "check", "count", "options", "results", "saved", "state")

    def __init__(self, bound: Bound, options: tuple[Any, ...], state: tuple[Any, ...]) -> None:
        self.bound, self.options, self.state = bound, options, state
        self.check: Callable[..., bool] | None = None  # of the gradients and of what is saved
        self.count = 0  # of the inputs
        self.results: tuple[Any, ...] = ()  # (sizes, dtype) of each output
        self.saved: tuple[Any, ...] | None = None  # signature of the inputs and of what is saved

    def chosen(self) -> bool:
        """Whether the backend is still the one asked for; use_backend may end before backward."""
        override, version, _ = self.state
        return override == registry.override() and version == registry.version()


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
            count = call.count
            if not _grad_enabled() and undisturbed() and call.chosen():
                check, tensors = call.check, (*grads, *saved)
                if check is not None and sized(tensors) and check(*tensors):
                    return (None, *call.bound.backward(grads, saved))
                given = _given(grads, call.results)
                if given and call.saved is not None and signature(saved) == call.saved:
                    call.check = check or guard(tensors)
                    return (None, *call.bound.backward(grads, saved))
            if all(grad is None for grad in grads):
                return (None,) * (1 + count)
            inputs, states = saved[:count], call.bound.unpacked(saved[count:])
            return (None, *general(grads, inputs, states, call.options))

    return type(titled(name), (Function,), {})  # its node is named after it


def _given(grads: Sequence[Tensor | None], results: Sequence[Any]) -> bool:
    """Whether there are gradients, all of them plain tensors like the outputs but for their
    strides."""
    found = False
    for grad, (shape, dtype) in zip(grads, results, strict=True):
        if grad is None:
            continue
        if (
            type(grad) is not Tensor
            or grad.dtype is not dtype
            or grad.shape != shape
            or _dispatch_keys(grad).raw_repr() not in PLAIN
        ):
            return False
        found = True
    return found
