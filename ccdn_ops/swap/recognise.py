"""Finds out what a block computes: from its structure first, then by trying."""

from __future__ import annotations

import dataclasses
import re
from abc import ABCMeta
from collections.abc import Iterator
from itertools import product
from types import FunctionType
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccdn_ops.attention import is_hooked

from . import probe, watch
from .blocks import AttentionLayout, Layout, NearMiss, Output, PoolingLayout, Step, Unfit
from .classes import bases, methods
from .occasions import check_everywhere
from .probe import L

Found = tuple[Layout, watch.Conditions]

# Common names of squeeze and excitation: a block with one of them is reported when skipped.
_SE_CLASS = re.compile(
    r"squeeze_?(and_?)?excit|^effectivese|channel_?att|^ca(layer|module)$"
    r"|^e?se(module|layer|block|unit|withnorm|attention)?(cl)?$",
    re.IGNORECASE,
)
_SE_CHILD = re.compile(r"^(se|se_?(module|layer|block)|squeeze_?(and_?)?excit\w*)$", re.IGNORECASE)
_COVARIANCE = re.compile(
    r"soca|second_?order|mpn_?cov|isqrt|cov\w*_?pool|sqrtm|gsop", re.IGNORECASE
)
_ITERATIONS = ("iterNum", "iterN", "iter_num", "num_iter", "n_iter", "iterations", "iters")

_WEIGHTED = (nn.modules.conv._ConvNd, nn.Linear, nn.Bilinear)
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_LEAVES = 12  # more than any published block has

# Functions that a forward may call where others have a module.
_ACTIVATIONS: tuple[tuple[Step, ...], ...] = ((), (F.relu,), (F.silu,), (F.gelu,), (F.hardswish,))
_GATES: tuple[tuple[Step, ...], ...] = ((torch.sigmoid,), (F.hardsigmoid,), (torch.tanh,))

# What a class may define without its instances losing anything under another class.
_HARMLESS = {"__init__", "forward", "extra_repr", "__repr__", "_get_name"}
_API = {name for name, value in vars(nn.Module).items() if isinstance(value, FunctionType)}
_API |= {"__getstate__", "__reduce__", "__reduce_ex__", "__deepcopy__", "__copy__", "__slots__"}
_API |= {"__getattribute__", "__init_subclass__", "__set_name__"}


def squeeze_excite(name: str, module: nn.Module) -> Found | None:
    """The layout of a squeeze-and-excitation block, and when it holds.

    None for anything else; raises Unfit with the reason if its name says that it should be one.
    """
    if isinstance(module, _CONTAINERS) or next(module.parameters(), None) is None:
        return None
    cls, child = type(module).__name__, name.rpartition(".")[2]
    try:
        layers, gates, channels = _bottleneck(module)
        try:
            return _attention(module, layers, gates, channels, "mean")
        except Unfit:
            if getattr(module, "add_maxpool", False):
                raise Unfit("it squeezes by mean and maximum together (add_maxpool)") from None
            raise
    except NearMiss:
        raise
    except Unfit:
        if _SE_CLASS.search(cls) or _SE_CHILD.match(child):
            raise
        return None


def second_order(name: str, module: nn.Module) -> Found | None:
    """The layout of a SOCA-like layer or an iSQRT-COV head; None and Unfit likewise."""
    if isinstance(module, _CONTAINERS):
        return None
    try:
        if next(module.parameters(), None) is None and not _names_covariance(module):
            return None
        try:
            layers, gates, channels = _bottleneck(module)
        except Unfit:
            if not _names_covariance(module):
                return None
            return _pooling(module)
        return _attention(module, layers, gates, channels, "covariance")
    except NearMiss:
        raise
    except Unfit:
        if _names_covariance(module):
            raise
        return None


def given(module: nn.Module, layout: Layout) -> Found:
    """A layout that the caller gives, verified like one that was recognised."""
    _check_class(module)
    return _verified(module, layout, _input_channels(module))


def _verified(module: nn.Module, layout: Layout, channels: int) -> Found:
    """Raises Unfit unless a replacement by the layout computes all that the module does."""
    _check_hooks(module, layout)
    conditions, numbers = watch.read(module, layout)
    probe.check_same(module, layout, channels)
    dtypes = check_everywhere(module, layout, channels, conditions, numbers)
    return layout, dataclasses.replace(conditions, dtypes=dtypes)


def _attention(
    module: nn.Module,
    layers: list[tuple[Step, ...]],
    gates: list[tuple[Step, ...]],
    channels: int,
    squeeze: Literal["mean", "covariance"],
) -> Found:
    """The one combination that gives the module's output and gradients."""
    x = probe.features(module, 4, channels, 5, 6)
    iterations = [5] if squeeze == "mean" else _iterations(module)
    possible = [
        AttentionLayout(inner, gate, squeeze, count)
        for inner, gate, count in product(layers, gates, iterations)
    ]
    layout = _only(probe.matching(module, possible, x), f"x * gate(layers({squeeze} of x))")
    if squeeze == "covariance":
        possible = [dataclasses.replace(layout, window=window) for window in (None, 1000)]
        inputs = probe.long_features(module, channels)
        what = "the attention that it is on small maps, where one is longer than 1000 positions"
        layout = _only(probe.matching(module, possible, *inputs), what)
    try:
        return _verified(module, layout, channels)
    except Unfit as unfit:
        raise NearMiss(str(unfit)) from unfit


def _only(found: list[L], what: str) -> L:
    if not found:
        raise Unfit(f"its output is not {what}")
    if len(found) > 1:
        raise Unfit(f"its output is {what} in {len(found)} ways at once")
    return found[0]


def _bottleneck(
    module: nn.Module,
) -> tuple[list[tuple[Step, ...]], list[tuple[Step, ...]], int]:
    """Possible layers and gates of channel attention, and D; Unfit if it has no such structure."""
    _check_class(module)
    leaves = dict(_leaves(module))
    weighted = [m for m in leaves.values() if isinstance(m, _WEIGHTED)]
    if len(weighted) not in (1, 2):
        raise Unfit(f"it has {len(weighted)} layers with weights; expected one or two")
    if len(leaves) > _LEAVES:
        raise Unfit(f"it has {len(leaves)} parts; expected at most {_LEAVES}")
    parts = dict(module.named_modules())
    for name in {name.rpartition(".")[0] for name, _ in module.named_parameters()}:
        m = leaves.get(name.partition(".parametrizations.")[0], parts[name])
        if isinstance(m, _NORMS):
            continue
        if not isinstance(m, nn.Linear) and not (
            isinstance(m, nn.Conv2d)
            and (m.kernel_size, m.stride, m.groups) == ((1, 1), (1, 1), 1)
            and m.padding in ((0, 0), 0)
        ):
            raise Unfit(
                f"it has weights in {type(m).__name__}; expected 1x1 convolutions or linear"
            )
    used, d = _uses(module, _widths(weighted[0])[0], _widths(weighted[-1])[0])
    with_weights = [i for i, n in enumerate(used) if isinstance(leaves[n], (*_WEIGHTED, *_NORMS))]
    layered = [i for i in with_weights if isinstance(leaves[used[i]], _WEIGHTED)]
    if len(layered) != len(weighted):
        raise Unfit("it does not use its layers once each")
    if (_widths(leaves[used[layered[0]]])[0], _widths(leaves[used[layered[-1]]])[1]) != (d, d):
        raise Unfit(f"its layers do not lead from {d} channels back to {d}")
    start, stop = with_weights[0], with_weights[-1] + 1
    layers: list[tuple[Step, ...]] = [tuple(used[start:stop])]
    if len(layered) == 2 and layered[1] - layered[0] == 1:  # the activation is a function
        at = layered[1] - start
        layers = [(*layers[0][:at], *act, *layers[0][at:]) for act in _ACTIVATIONS]
    gates: list[tuple[Step, ...]] = [tuple(used[stop:])] if used[stop:] else list(_GATES)
    return layers, gates, d


def _leaves(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Its parts without parts of their own; what parametrises a layer counts as the layer's."""
    for name, part in module.named_modules():
        if ".parametrizations" not in name and not set(part._modules) - {"parametrizations"}:
            yield name, part


def _uses(module: nn.Module, *possible: int) -> tuple[list[str], int]:
    """The leaves that are called, and for which D: layers may be registered in another order."""
    try:
        return _leaves_used(module, probe.features(module, 4, possible[0], 5, 6)), possible[0]
    except Unfit:
        if len(possible) == 1 or possible[0] == possible[1]:
            raise
        try:
            return _uses(module, *possible[1:])
        except Unfit:
            pass
        raise


def _leaves_used(module: nn.Module, x: Tensor) -> list[str]:
    """The names of the leaves that a forward pass calls, in their order."""
    twin = probe.random_copy(module).eval()
    used: list[str] = []
    for name, leaf in _leaves(twin):
        leaf.register_forward_pre_hook(lambda *_, name=name: used.append(name))
    with torch.no_grad():
        out = probe.run(twin, x)
    if out.shape != x.shape:
        raise Unfit(f"its output for {tuple(x.shape)} has shape {tuple(out.shape)}")
    if len(set(used)) != len(used):
        raise Unfit("it uses a part of itself twice")
    return used


def _pooling(module: nn.Module) -> Found:
    """The layout of an iSQRT-COV head, found by trying."""
    _check_class(module)
    if sum(isinstance(m, _WEIGHTED) for m in module.modules()) > 2:
        raise Unfit(
            "it calls covariance pooling inside a larger forward, which has no module to replace; "
            "functions=True replaces the functions that it calls"
        )
    x = probe.features(module, 4, _input_channels(module), 5, 6)
    twin = probe.random_copy(module).eval()
    before: list[str] = []
    channels = x.shape[1]

    def called(name: str, out: object) -> None:
        nonlocal channels
        before.append(name)
        channels = out.shape[1] if isinstance(out, Tensor) and out.dim() == 4 else 0

    for name, child in twin.named_children():
        child.register_forward_hook(lambda _m, _x, out, name=name: called(name, out))
    with torch.no_grad():
        out = probe.run(twin, x)
    output, trailing = _output_kind(tuple(out.shape), channels)
    counts = _iterations(module)
    possible = [PoolingLayout(tuple(before), output, count, trailing) for count in counts]
    spoken = f" after {counts[0]} iterations" if len(counts) == 1 else ""
    if getattr(module, "is_sqrt", True) is False:
        spoken += " (is_sqrt=False: ccdn_ops.covariance_pool computes that)"
    what = "the square root of the covariance" + spoken
    layout = _only(probe.matching(module, possible, x), what)
    return _verified(module, layout, x.shape[1])


def _output_kind(shape: tuple[int, ...], channels: int) -> tuple[Output, int]:
    d, rest, trailing = channels, list(shape[1:]), 0
    while len(rest) > 1 and rest[-1] == 1:
        rest.pop()
        trailing += 1
    kinds: dict[tuple[int, ...], Output]
    kinds = {(d * (d + 1) // 2,): "triu", (d,): "mean", (d, d): "matrix", (d * d,): "flat"}
    if len(kinds) < 4 or tuple(rest) not in kinds:
        raise Unfit(f"its output for {d} channels has shape {shape}, which no kind of head has")
    return kinds[tuple(rest)], trailing


def _iterations(module: nn.Module) -> list[int]:
    """The number that the module states, else all possible ones."""
    for name in _ITERATIONS:
        stated = getattr(module, name, None)
        if type(stated) is int and 1 <= stated <= 10:
            return [stated]
    return list(range(1, 11))


def _input_channels(module: nn.Module) -> int:
    for m in module.modules():
        if isinstance(m, _WEIGHTED):
            return _widths(m)[0]
    return 6  # a module without layers takes any


def _widths(module: nn.Module) -> tuple[int, int]:
    """Channels in and out of a layer; (0, 0) for one that has neither."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, nn.modules.conv._ConvNd):
        return module.in_channels, module.out_channels
    return 0, 0


def _check_class(module: nn.Module) -> None:
    """Raises Unfit if another class would lose more than the forward."""
    if isinstance(module, torch.jit.ScriptModule):
        raise Unfit("it is a TorchScript module; swap before torch.jit.script")
    if "forward" in vars(module):
        raise Unfit("its forward was replaced on the instance, which a new class would pass over")
    if getattr(module, "_compiled_call_impl", None) is not None:
        raise Unfit("it was compiled by itself; swap first, then compile")
    if next(module.parameters(recurse=False), None) is not None:
        raise Unfit("it has parameters besides those of its layers")
    if next(module.buffers(recurse=False), None) is not None:
        raise Unfit("it has buffers of its own")
    if "second" in vars(module) or "second" in module._modules:
        raise Unfit("it has an attribute `second`, the name of what a swap may add")
    if type(type(module)) not in (type, ABCMeta):
        raise Unfit(f"its class is a {type(type(module)).__name__}; expected a plain class")
    for cls in bases(type(module)):
        overridden = sorted((vars(cls).keys() & _API) - _HARMLESS)
        if overridden:
            raise Unfit(f"its class has its own {', '.join(overridden)}")


def _check_hooks(module: nn.Module, layout: Layout) -> None:
    """Raises Unfit if a part with hooks is no longer called."""
    if not isinstance(layout, AttentionLayout):
        return
    called = {step for step in (*layout.layers, *layout.gate) if isinstance(step, str)}
    for name, part in module.named_modules():
        if name and name not in called and is_hooked(part):
            raise Unfit(f"its part {name} has hooks, which would no longer run")


def _names_covariance(module: nn.Module) -> bool:
    """Whether its class has such a name, or what its methods call, its own children aside."""
    names = {type(module).__name__}
    for _, _, _, function in methods(bases(type(module))):
        names |= set(function.__code__.co_names) - set(module._modules)
    return any(_COVARIANCE.search(name) for name in names)
