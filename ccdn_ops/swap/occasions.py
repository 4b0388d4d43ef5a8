"""Tries a block and its replacement on maps of many sizes, dtypes, values and memory formats."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ccdn_ops.ops.checks import FLOATING

from . import probe
from .blocks import Layout, NearMiss, Unfit
from .sizes import Limits, Size, decisions, sizes
from .swapped import convert
from .watch import Conditions

_INTERNAL = set(vars(nn.Module()))
# Not all of these draws have weights that hide a difference (a dead unit, a saturated gate).
_DRAWS = ((0, False), (1, True), (2, False), (3, True))
_MUCH = 2**18  # numbers
_SCALES = (1e-3, 30.0, 1e3)


def check_everywhere(
    module: nn.Module,
    layout: Layout,
    channels: int,
    conditions: Conditions,
    numbers: dict[int, str],
) -> tuple[torch.dtype, ...]:
    """The dtypes in which the replacement gives the block's outputs wherever the block gives any.

    Raises NearMiss if the block's own dtype is not one of them.

    The numbers are those that its code reads, with their places. Gradients and the first sizes are
    compared by `probe.check_same`.
    """
    pairs = [_pair(module, layout, *draw) for draw in _DRAWS]
    before = _state(pairs[0][1])
    tried: set[Size] = set()
    limits = Limits(layout, channels)
    compared, complete = decisions(module, limits, repr(conditions))
    for size, why in sizes(numbers, limits, compared, complete):
        if size not in tried:
            tried.add(size)
            what = f"output for a map of {size[1]} x {size[2]} in a batch of {size[0]}"
            described = f"{what} ({why})" if why else what
            batch, height, width = size
            few = limits.work(size) > _MUCH  # of one draw for each mode
            for found, wanted in pairs[:2] if few else pairs:
                x = probe.features(wanted, batch, channels, height, width)
                _compare(found, wanted, x, layout, described)
    for found, wanted in pairs:
        x = probe.features(wanted, 4, channels, 5, 6)
        for what, other in _forms(x):
            _compare(found, wanted, other, layout, f"output for {what}")
        exact, plain, values = found, wanted, [x * scale for scale in _SCALES]
        if limits.second:  # small values next to a bias leave nothing but rounding in float32
            exact, plain = (copy.deepcopy(part).double() for part in (found, wanted))
            values = [other.double() for other in values]
        else:
            values += _odd(x)
        for other in values:
            largest = other.abs().max().item()
            _compare(exact, plain, other, layout, f"output for values up to {largest:.2g}")
        with torch.enable_grad():
            _compare(found, wanted, x, layout, "output where weights alone have gradients")
            x.requires_grad_()
            _compare(found, wanted, x, layout, "output with gradients")
            _compare(found, wanted, x * 1, layout, "output behind another layer")
    if _state(pairs[0][1]) != before:
        raise NearMiss("its forward changes its own attributes, which its replacement would not")
    x = probe.features(pairs[0][1], 4, channels, 5, 6)
    return tuple(dtype for dtype in FLOATING if _agree(pairs[0], x, dtype, layout))


def _agree(
    pair: tuple[nn.Module, nn.Module], x: Tensor, dtype: torch.dtype, layout: Layout
) -> bool:
    found, wanted = (copy.deepcopy(part).to(dtype) for part in pair)
    try:
        _compare(found, wanted, x.to(dtype), layout, f"output in {dtype}")
    except NearMiss:
        if dtype == x.dtype:
            raise
        return False
    return True


def _pair(
    module: nn.Module, layout: Layout, seed: int, training: bool
) -> tuple[nn.Module, nn.Module]:
    found, wanted = (probe.random_copy(module, seed).train(training) for _ in range(2))
    convert(found, layout)
    return found, wanted


def _forms(x: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A map in other memory formats."""
    yield "channels_last", x.contiguous(memory_format=torch.channels_last)
    yield "a transposed map", x.mT.contiguous().mT
    yield "an expanded map", x[:1].expand_as(x)
    yield "a view", torch.cat([x, x], 3)[..., 1 : x.shape[3] + 1]
    yield "an empty batch", x[:0]


def _odd(x: Tensor) -> Iterator[Tensor]:
    """Values for which published second-order code gives NaN or overflows."""
    yield torch.zeros_like(x)
    for odd in (float("nan"), float("inf")):
        other = x.clone()
        other[0, 0, 0, 0] = odd
        yield other


def _compare(found: nn.Module, wanted: nn.Module, x: Tensor, layout: Layout, what: str) -> None:
    before = x.detach().clone()
    grad = torch.is_grad_enabled() and (x.requires_grad or "weights" in what)
    try:
        _seed()
        with torch.set_grad_enabled(grad):
            out: Any = wanted(x)
    except Exception:
        return  # nor does its replacement have to
    random = torch.get_rng_state()
    if not isinstance(out, Tensor):
        raise NearMiss(f"its {what} is a {type(out).__name__}; expected a tensor")
    if not x.detach().nan_to_num().equal(before.nan_to_num()):
        raise NearMiss("it changes its input in place")
    try:
        _seed()
        with torch.set_grad_enabled(grad):
            replaced = probe.run(found, x)
        if out.requires_grad != replaced.requires_grad:
            raise Unfit(f"its {what} has a gradient in one of the two only")
        if not torch.get_rng_state().equal(random):
            raise Unfit("it draws random numbers, which its replacement would not")
        odd = ~out.isfinite()
        if replaced.shape == out.shape and not odd.equal(~replaced.isfinite()):
            raise Unfit(f"its {what} is not finite in one of the two only")
        tolerance = probe.OUTPUT_TOLERANCE * probe.rounding(layout, x)
        tolerance = max(tolerance, 8 * torch.finfo(x.dtype).eps)
        probe.require(replaced.nan_to_num(0, 0, 0), out.nan_to_num(0, 0, 0), tolerance, what)
    except Unfit as unfit:
        raise NearMiss(str(unfit)) from unfit


def _seed() -> None:
    # torch.manual_seed formats a traceback for every device type that is not in use: 10 ms.
    torch.default_generator.manual_seed(0)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(0)


def _state(module: nn.Module) -> bytes:
    """The plain attributes of a block and its parts; empty if they cannot be written."""
    plain = {
        name: {key: value for key, value in vars(part).items() if key not in _INTERNAL}
        for name, part in module.named_modules()
    }
    try:
        return pickle.dumps(plain)
    except Exception:
        return b""
