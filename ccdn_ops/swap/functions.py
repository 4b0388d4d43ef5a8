"""Finds out what a function computes, by trying, and replaces its calls by operators.

Known are covariance pooling of a map, the Newton-Schulz square root of a matrix, the vectorised
upper triangle of a matrix, and functions that do several of these. Each is verified like a block:
it is wrapped into a module that calls it, and that module goes through the probes of blocks.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from . import probe, whitening
from .blocks import FunctionLayout, Unfit
from .code import Reading
from .occasions import check_everywhere
from .replacement import Replacement
from .swapped import computed
from .trials import COUNTS, signature, widths
from .watch import Conditions

# Of the function itself, or of an autograd Function's class: "CovpoolLayer", not "recover".
NAME = re.compile(
    r"(?<![a-z])cov(?!er)|(?<![a-z])mpn|isqrt|sqrtm|mat\w*sqrt|sqrt\w*mat|newton|schulz|triu"
    r"|upper_?tri",
    re.IGNORECASE,
)
# A function of another name is tried if its code has one of these: products and triangles.
_MATRICES = {
    "baddbmm", "bmm", "cov", "einsum", "matmul", "mm", "nonzero", "tensordot", "tril",
    "tril_indices", "triu", "triu_indices",
}  # fmt: skip
_CHANNELS = 6


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
    """The replacement of a function of this family or of one that whitens, None for any other.

    Raises Unfit, with the reason, for a function that is named like one of this family but cannot
    be replaced, and for one that whitens in some cases only.
    """
    named = is_named(function)
    reading = Reading()
    try:
        if not reading.callable(function):
            raise Unfit(f"it is a {type(function).__name__}, which cannot be read")
    except Unfit:
        if named:
            raise
        return None
    # A compiled function may take no check of its arguments.
    tried = not reading.compiled and bool(reading.names & _MATRICES)
    made: Replacement | None = whitening.recognise(function, reading) if tried else None
    if made is not None or not (named or tried):
        return made
    try:
        argument, default = signature(function)
        layout = _layout(function, argument, default)
        if layout is None:
            raise Unfit("it computes no covariance, root or upper triangle of its argument")
        return _verified(function, layout, reading)
    except Unfit:
        if named:
            raise
        return None


def is_named(function: Callable[..., Any]) -> bool:
    """Whether its name says that it is of this family."""
    return NAME.search(_own_name(function)) is not None


def _own_name(function: Callable[..., Any]) -> str:
    owner = getattr(function, "__self__", None)
    if isinstance(owner, type):
        return owner.__name__
    return getattr(function, "__name__", type(function).__name__)


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
    for one in COUNTS if count is None else [count]:
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


def _verified(
    function: Callable[..., Any], layout: FunctionLayout, reading: Reading
) -> Replacement:
    conditions = Conditions(constants=reading.places())
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
    for count in COUNTS:
        one = dataclasses.replace(layout, iterations=(count,))
        try:
            probe.check_same(Call(function, one, count), one, _CHANNELS)
        except Unfit:
            continue
        yield count
