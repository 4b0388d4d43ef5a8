"""Finds out what a function computes, by trying, and replaces its calls by operators.

Known are covariance pooling of a map, the Newton-Schulz square root of a matrix, the vectorised
upper triangle of a matrix, and functions that do several of these. Each is verified like a block:
it is wrapped into a module that calls it, and that module goes through the probes of blocks.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from ccdn_ops.ops.isqrt_cov import isqrt_cov
from ccdn_ops.ops.newton_schulz_sqrt import newton_schulz_sqrt

from . import probe
from .blocks import FunctionLayout, Unfit
from .code import Reading
from .occasions import check_everywhere
from .swapped import computed
from .watch import Conditions

# Of the function itself, or of an autograd Function's class: "CovpoolLayer", not "recover".
NAME = re.compile(
    r"(?<![a-z])cov(?!er)|(?<![a-z])mpn|isqrt|sqrtm|mat\w*sqrt|sqrt\w*mat|newton|schulz|triu"
    r"|upper_?tri",
    re.IGNORECASE,
)
_COUNT = re.compile(r"iter|step|^n$|^k$|num", re.IGNORECASE)
_COUNTS = range(1, 11)
# A function of another name is tried if its code has one of these: products and triangles.
_MATRICES = {
    "baddbmm", "bmm", "cov", "einsum", "matmul", "mm", "nonzero", "tensordot", "tril",
    "tril_indices", "triu", "triu_indices",
}  # fmt: skip
_CHANNELS = 6
_MOST_CHANNELS = 512


@dataclass(frozen=True)
class Replacement:
    """What is called instead of a function.

    A call of the kind that was tried goes to the operators; every other call goes to the function.
    The root's operator takes symmetric matrices for granted, so it gets only what the replacement
    of covariance pooling has made and nobody has changed since. Such a matrix carries its features:
    with fewer positions than channels the root is computed from these.
    """

    function: Callable[..., Any]
    layout: FunctionLayout
    conditions: Conditions

    def __post_init__(self) -> None:
        for name in ("__module__", "__name__", "__qualname__", "__doc__"):
            object.__setattr__(self, name, getattr(self.function, name, None))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        x: Any = args[0] if args else None
        count = self._count(args, kwargs)
        if count is not None and self._takes(x):
            if self.layout.kind != "root":
                found = computed(self.layout, x, count)
                if self.layout.kind == "covariance" and not torch.compiler.is_compiling():
                    _remember(found, x)
                return found
            features = None if torch.compiler.is_compiling() else _features(x)
            if features is not None and not _is_watched(x):
                if features.shape[2:].numel() < x.shape[1]:
                    return isqrt_cov(features, count)
                return newton_schulz_sqrt(x, count)
        return self.function(*args, **kwargs)

    def _count(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
        """The number of iterations that a call asks for; None for another kind of call."""
        layout = self.layout
        if len(args) == 1 and not kwargs:
            count = layout.default
        elif layout.argument and len(args) == 2 and not kwargs:
            count = args[1]
        elif layout.argument and len(args) == 1 and len(kwargs) == 1:
            count = kwargs.get(layout.argument)
        else:
            return None
        return count if type(count) is int and count in layout.iterations else None

    def _takes(self, x: Any) -> bool:
        return (
            isinstance(x, Tensor)
            and not torch.jit.is_tracing()
            and x.dim() == (4 if self.layout.of_maps else 3)
            and (self.layout.of_maps or x.shape[1] == x.shape[2])
            and x.dtype in self.conditions.dtypes
            and x.layout is torch.strided
            and not x.is_nested
            and all(size >= 1 for size in x.shape[1:])
            and (torch.compiler.is_compiling() or forward_ad._current_level < 0)
            and self.conditions.hold(_NOTHING)
        )


_NOTHING = nn.Module()


def _remember(covariance: Tensor, x: Tensor) -> None:
    """Inference tensors do not say whether they were changed in place; these carry nothing."""
    if not covariance.is_inference() and not x.is_inference():
        covariance._swap_features = x, x._version, covariance._version  # type: ignore[attr-defined]


def _features(covariance: Tensor) -> Tensor | None:
    """Those that a covariance was made of, if neither has changed since."""
    x, *versions = getattr(covariance, "_swap_features", (None,))
    return x if x is not None and versions == [x._version, covariance._version] else None


def _is_watched(tensor: Tensor) -> bool:
    """Whether somebody waits for its gradient: the operators give a symmetric one, or none."""
    return bool(tensor._backward_hooks) or tensor.retains_grad


class Call(nn.Module):
    """A function as a module of maps (B, D, H, W), for the probes."""

    def __init__(self, function: Callable[..., Any], layout: FunctionLayout, *count: int) -> None:
        super().__init__()
        self.function, self.layout, self.count = function, layout, count

    def given(self, x: Tensor) -> Tensor:
        """What the function is given for a map: that, a covariance, or any matrix."""
        if self.layout.of_maps:
            return x
        flat = x.flatten(2)
        if self.layout.kind == "triu":
            return flat @ flat.roll(1, 1).mT / flat.shape[2]
        flat = flat - flat.mean(2, keepdim=True)
        return flat @ flat.mT / flat.shape[2]

    def forward(self, x: Tensor) -> Any:
        return self.function(self.given(x), *self.count)


def recognise(function: Callable[..., Any]) -> Replacement | None:
    """The replacement of a function of this family, None for any other.

    Raises Unfit, with the reason, for a function that is named like one but cannot be replaced.
    """
    named = is_named(function)
    try:
        reading = Reading()
        argument, default = _signature(function)
        if not reading.callable(function):
            raise Unfit(f"it is a {type(function).__name__}, which cannot be read")
        if not named and (reading.compiled or not reading.names & _MATRICES):
            return None  # a compiled function may take no check of its arguments
        layout = _layout(function, argument, default)
        if layout is None:
            raise Unfit("it computes no covariance, root or upper triangle of its argument")
        return _verified(function, layout, reading)
    except Unfit:
        if named:
            raise
        return None


def spoken(function: Callable[..., Any]) -> str:
    """module.name of a function, module.Class.apply of an autograd Function."""
    owner = getattr(function, "__self__", None)
    if isinstance(owner, type):
        return f"{owner.__module__}.{owner.__qualname__}.apply"
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{getattr(function, '__module__', '')}.{name}"


def is_named(function: Callable[..., Any]) -> bool:
    """Whether its name says that it is of this family."""
    return NAME.search(_own_name(function)) is not None


def _own_name(function: Callable[..., Any]) -> str:
    owner = getattr(function, "__self__", None)
    if isinstance(owner, type):
        return owner.__name__
    return getattr(function, "__name__", type(function).__name__)


def _signature(function: Callable[..., Any]) -> tuple[str, int | None]:
    """The name of the argument that is the number of iterations ("": none), and its default."""
    owner, skipped = getattr(function, "__self__", None), 0
    if isinstance(owner, type) and issubclass(owner, torch.autograd.Function):
        function, skipped = owner.forward, int("setup_context" not in vars(owner))
    try:
        parameters = list(inspect.signature(function).parameters.values())[skipped:]
    except (TypeError, ValueError) as error:
        raise Unfit(f"its arguments are unknown: {error}") from error
    empty, positional = inspect.Parameter.empty, inspect.Parameter.POSITIONAL_OR_KEYWORD
    if not parameters or any(p.kind != positional for p in parameters):
        raise Unfit("its arguments are not of the plain kind, positional or by name")
    if parameters[0].default is not empty:
        raise Unfit("its first argument has a default")
    needed = [p for p in parameters[1:] if p.default is empty]
    if len(needed) > 1:
        raise Unfit(f"it needs {len(needed) + 1} arguments")
    second = parameters[1] if len(parameters) > 1 else None
    if second is None or not (needed or _COUNT.search(second.name)):
        return "", None
    default = second.default if type(second.default) is int else None
    return second.name, default


def _layout(
    function: Callable[..., Any], argument: str, default: int | None
) -> FunctionLayout | None:
    """What it computes, for the first number of iterations with which it computes anything."""
    if argument:
        counts: list[int | None] = [5, 3] if default is None else [default]
    else:
        counts = [None]
    for count in counts:
        outputs: dict[str, tuple[Tensor, Any]] = {}
        for layout in _possible(count):
            if argument and layout.kind not in ("root", "pooled"):
                continue
            given = layout.iterations[0] if count is None else default
            layout = dataclasses.replace(layout, argument=argument, default=given)
            kind = "map" if layout.of_maps else layout.kind
            if kind not in outputs:
                call = Call(function, layout, *([] if count is None else [count]))
                outputs[kind] = _output(call, _CHANNELS)
            if _gives(*outputs[kind], layout):
                return layout
    return None


def _possible(count: int | None) -> Iterator[FunctionLayout]:
    for trailing in (0, 1):
        yield FunctionLayout("triu", trailing=trailing)
    yield FunctionLayout("covariance")
    for one in _COUNTS if count is None else [count]:
        yield FunctionLayout("root", iterations=(one,))
        for kind in ("matrix", "mean", "flat"):
            yield FunctionLayout("pooled", kind, (one,))
        for trailing in (0, 1):
            yield FunctionLayout("pooled", "triu", (one,), trailing)


def _output(call: Call, channels: int) -> tuple[Tensor, Any]:
    """What a function is given for one random map, and what it returns; None if it raises."""
    x = call.given(probe.features(call, 2, channels, 2, 3))
    try:
        with torch.no_grad():
            return x, call.function(x, *call.count)
    except Exception:
        return x, None


def _gives(x: Tensor, found: Any, layout: FunctionLayout) -> bool:
    """Whether a layout computes of x what was found."""
    if not isinstance(found, Tensor):
        return False
    try:
        with torch.no_grad():
            wanted = computed(layout, x, layout.iterations[0])
    except Exception:
        return False
    return probe.difference(found, wanted) <= 1e-4


def widths(reading: Reading) -> list[int]:
    """The numbers of channels to try: a few, and those next to the numbers in the code.

    Raises Unfit for one that is too large to try.
    """
    found = {1, 2, 5, 17}
    for number, place in reading.numbers.items():
        if number > _MOST_CHANNELS:
            raise Unfit(f"its code mentions {place}, perhaps a number of channels too large to try")
        found |= {number - 1, number, number + 1}
    return sorted(found - {0})


def _verified(
    function: Callable[..., Any], layout: FunctionLayout, reading: Reading
) -> Replacement:
    constants = tuple((*place, reading.constants[place]) for place in sorted(reading.constants))
    conditions = Conditions(constants=constants)
    counted = bool(layout.argument)
    call = Call(function, layout, *layout.iterations[: int(counted)])
    probe.check_same(call, layout, _CHANNELS)
    dtypes = check_everywhere(call, layout, _CHANNELS, conditions, reading.numbers)
    for width in widths(reading):
        if not _gives(*_output(call, width), layout):
            raise Unfit(f"it computes something else for {width} channels")
    if counted:
        layout = dataclasses.replace(layout, iterations=tuple(_counts(function, layout)))
    return Replacement(function, layout, dataclasses.replace(conditions, dtypes=dtypes))


def _counts(function: Callable[..., Any], layout: FunctionLayout) -> Iterator[int]:
    """The numbers of iterations for which it computes the same as the operator."""
    for count in _COUNTS:
        one = dataclasses.replace(layout, iterations=(count,))
        try:
            probe.check_same(Call(function, one, count), one, _CHANNELS)
        except Unfit:
            continue
        yield count
