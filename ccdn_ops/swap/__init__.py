"""Puts the operators into existing networks.

`swap_squeeze_excite(model)`, `swap_second_order(model)` and `swap_functions(model)` change a model
in place. Its Parameters, the names in its state_dict and its outputs stay the same. What a block
computes is determined on a copy with random weights, and a block or a function is replaced only if
its outputs and gradients equal those of its replacement. docs/swapping.md is the guide; rebound.py
says how a function is replaced for one model alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ccdn_ops.ops.checks import check_iterations

from . import functions, mentions, rebound, recognise, sizes
from .blocks import AttentionLayout, FunctionLayout, Layout, PoolingLayout, Unfit
from .probe import quiet
from .replacement import Replacement, full_name
from .swapped import (
    Swapped,
    SwappedSqueezeExcite,
    SwappedSqueezeExciteOfSecondOrder,
    add_second_order,
    convert,
    revert,
)

__all__ = [
    "AttentionLayout",
    "FunctionLayout",
    "PoolingLayout",
    "Replaced",
    "Skipped",
    "SwapReport",
    "swap_functions",
    "swap_second_order",
    "swap_squeeze_excite",
    "unswap",
]

Layouts = Mapping[type[nn.Module], Layout] | Callable[[str, nn.Module], Layout | None]
Recognise = Callable[[str, nn.Module], recognise.Found | None]


@dataclass(frozen=True)
class Replaced:
    """A block that was replaced: its names in the model, its class, and its computation now.

    Of a function, `original` is its own name, and the names are those of the modules that call it.

    The replacement runs while the attributes that the block's code reads have the values in
    `attributes`, and for the dtypes listed, if not for all. Otherwise the block's own forward runs.
    """

    names: tuple[str, ...]
    original: str
    layout: Layout
    attributes: str = ""

    def __str__(self) -> str:
        if isinstance(self.layout, FunctionLayout):
            said = f"{self.original}, called in {_listed(self.names)}: {self.layout}"
        else:
            said = f"{_spoken(self.names)} ({self.original}): {self.layout}"
        return f"{said}, while {self.attributes}" if self.attributes else said


@dataclass(frozen=True)
class Skipped:
    """A block or a function that was left unchanged: its names, its class, and the reason.

    Of a function, `original` is its own name, and the names are those of a module that calls it.
    """

    names: tuple[str, ...]
    original: str
    reason: str


@dataclass
class SwapReport:
    """What a swap did; `print(report)` describes it.

    replaced are the `blocks` and the `functions`. new_parameters are those that the swap created
    (second_order=True), by their names in the model. An optimiser built before the swap does not
    update them.
    """

    replaced: list[Replaced] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    new_parameters: dict[str, nn.Parameter] = field(default_factory=dict)

    @property
    def blocks(self) -> list[Replaced]:
        """The modules that were replaced."""
        return [done for done in self.replaced if not isinstance(done.layout, FunctionLayout)]

    @property
    def functions(self) -> list[Replaced]:
        """The functions that were replaced where modules of the model call them."""
        return [done for done in self.replaced if isinstance(done.layout, FunctionLayout)]

    def __str__(self) -> str:
        lines = [f"{len(self.replaced)} replaced, {len(self.skipped)} skipped"]
        lines += [f"  replaced block {done}" for done in self.blocks]
        lines += [f"  replaced function {done}" for done in self.functions]
        for left in self.skipped:
            lines.append(f"  skipped  {_spoken(left.names)} ({left.original}): {left.reason}")
        if self.new_parameters:
            count = sum(p.numel() for p in self.new_parameters.values())
            lines.append(f"  {count} new parameters in {len(self.new_parameters)} tensors")
        return "\n".join(lines)


def swap_squeeze_excite(
    model: nn.Module,
    second_order: bool = False,
    iterations: int = 5,
    layouts: Layouts | None = None,
) -> SwapReport:
    """Replaces the squeeze-and-excitation blocks of a model, in place.

    Supports timm's SEModule, SqueezeExcite and EffectiveSEModule, torchvision's SqueezeExcitation,
    and any other module that computes x * gate(layers(mean of x)) with one or two 1x1 convolutions
    or linear layers, whatever its activation, gate and normalisation: nested blocks, shared blocks
    and the model itself. A replaced block stays the same object but gets a subclass of its class:
    Parameters, buffers, names, hooks, mode, device and dtype are kept. Only calls with just a map
    (B, D, H, W) use the operators. Every other call runs the block's own forward, as before, and so
    do all calls once an attribute that its code reads has changed. Everything else is left alone. A
    module that is named like such a block but is not one, or is one only for some maps, appears in
    the report with the reason.

    Args:
        second_order: adds a child `second` to each replaced block, including those of an earlier
        call: a bottleneck over the covariance squeeze whose logits are zero until it is
        trained, so outputs do not change at first. Its parameters are the report's
        new_parameters.
        iterations: Newton-Schulz iterations of that squeeze, 1 to 10.
        layouts: the layouts of blocks that are not recognised automatically: a mapping from classes
        to AttentionLayout, or a function of name and module that returns one or None. They are
        verified like the others.

    Raises TypeError for a model that is not a module, ValueError for iterations out of range, and
    for second_order in a DistributedDataParallel, which would not average the new gradients.
    """
    check_iterations("swap_squeeze_excite", iterations)
    if second_order and isinstance(model, nn.Module):
        for name, module in model.named_modules():
            if isinstance(module, DistributedDataParallel):
                raise ValueError(
                    f"swap_squeeze_excite: {name or 'the model'} is a DistributedDataParallel,"
                    " which does not average the gradients of parameters that second_order adds;"
                    " expected the model before it is wrapped"
                )
    report = _swap("swap_squeeze_excite", model, recognise.squeeze_excite, layouts)
    for block, (name, *_) in _names(model).items() if second_order else ():
        if isinstance(block, SwappedSqueezeExcite) and not isinstance(
            block, SwappedSqueezeExciteOfSecondOrder
        ):
            prefix = f"{name}.second." if name else "second."
            for own, parameter in add_second_order(block, iterations).named_parameters():
                report.new_parameters[prefix + own] = parameter
    return report


def swap_second_order(
    model: nn.Module, layouts: Layouts | None = None, functions: bool = True
) -> SwapReport:
    """Replaces SOCA-like layers, iSQRT-COV heads and their functions in a model, in place.

    Supports channel attention over the covariance squeeze (SAN's SOCA, with its central window of
    1000 positions) and modules that take the root of the covariance (fast-MPN-COV's MPNCOV with and
    without its dimension reduction, and its ports) and return the mean over its columns, its upper
    triangle or all of it. The number of iterations is read from the module or found by trial. Where
    a network calls such functions inside a larger forward, there is no module to replace: the
    functions themselves are replaced, as by `swap_functions`. The report lists both, as `blocks`
    and as `functions`. Otherwise as `swap_squeeze_excite`.

    Args:
        layouts: the layouts of blocks that are not recognised automatically: a mapping from classes
        to AttentionLayout or PoolingLayout, or a function of name and module that returns one
        or None. They are verified like the others.
        functions: whether functions are replaced as well, where no replaced block calls them. If
        not, the report lists a module that calls them as skipped.

    Raises TypeError for a model that is not a module.
    """
    if functions and isinstance(model, nn.Module):
        for module in model.modules():
            rebound.release(module)  # a block that calls one may be replaced as a whole
    report = _swap("swap_second_order", model, recognise.second_order, layouts)
    if functions:
        more = swap_functions(model)
        served = {name for done in more.replaced for name in done.names}
        report.replaced += more.replaced
        report.skipped = [s for s in report.skipped if not served & {*s.names}]
        said = {(left.names, left.original) for left in report.skipped}
        report.skipped += [s for s in more.skipped if (s.names, s.original) not in said]
    return report


def swap_functions(model: nn.Module) -> SwapReport:
    """Replaces covariance pooling, its root and its upper triangle where a model calls functions.

    Looks at the functions that the methods of the model's classes mention: by a global name (also
    one imported with `from X import Y`), as an attribute of a Python module, as the `apply` of an
    autograd Function, through other functions, or as an attribute of the instance. Each that
    computes covariance pooling of a map (B, D, H, W), the Newton-Schulz square root of a matrix,
    the vectorised upper triangle of a matrix, or several of these at once, is verified like a block
    and replaced in this model alone; other models that call it are not affected. A call of another
    kind runs the function itself, as before the swap; so does a root of a matrix that no replaced
    covariance pooling has made, and every root in a graph of torch.compile. Functions that whiten
    are replaced, too: the inverse root of network deconvolution, for matrices that autograd knows
    as X^T X, and the training of IterNorm, both outside of torch.compile. A function that is
    named like one of these but cannot be verified appears in the report with the reason. `unswap`
    undoes it.

    Raises TypeError for a model that is not a module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"swap_functions: model is a {type(model).__name__}; expected torch.nn.Module"
        )
    report = SwapReport()
    sizes.forget()
    callers = {
        module: names
        for module, names in _names(model).items()
        if not isinstance(module, (Swapped, rebound.Rebound))
    }
    tried: dict[Callable[..., object], Replacement | None] = {}
    calls: dict[nn.Module, list[Callable[..., object]]] = {}
    for module, names in callers.items():
        calls[module] = []
        for function in mentions.called(module, tried):
            calls[module].append(function)
            if function not in tried:
                tried[function] = None
                try:
                    with quiet():
                        tried[function] = functions.recognise(function)
                except Unfit as unfit:
                    spoken = full_name(function)
                    report.skipped.append(Skipped(names, spoken, str(unfit)))
        mentioned = {full_name(function) for function in calls[module]}
        for spoken, reason in mentions.out_of_reach(module, functions.is_named):
            if spoken not in mentioned:
                report.skipped.append(Skipped(names, spoken, reason))
    found = {function: made for function, made in tried.items() if made is not None}
    users: dict[Callable[..., object], tuple[str, ...]] = {}
    for module, names in callers.items() if found else ():
        try:
            used = rebound.rebind(module, found)
            for function in calls[module]:
                if function in found and function not in used:
                    reason = "its name is set, compared or passed around where it is called"
                    report.skipped.append(Skipped(names, full_name(function), reason))
            for function in found:
                if function in used:
                    users[function] = (*users.get(function, ()), *names)
        except Unfit as unfit:
            report.skipped.append(Skipped(names, _class_name(module), str(unfit)))
    for function, names in users.items():
        made = found[function]
        spoken = full_name(function)
        report.replaced.append(Replaced(names, spoken, made.layout, made.conditions.spoken()))
    return report


def unswap(model: nn.Module) -> list[str]:
    """Undoes all swaps, in place, and returns the names of the modules that were changed.

    Raises TypeError for a model that is not a module. Raises ValueError, before anything changes,
    if a block has a second-order branch (second_order=True), which its own class cannot compute.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"unswap: model is a {type(model).__name__}; expected torch.nn.Module")
    blocks = {block: names[0] for block, names in _names(model).items()}
    for block, name in blocks.items():
        if isinstance(block, SwappedSqueezeExciteOfSecondOrder):
            raise ValueError(
                f"unswap: {name or 'the model'} has a second-order branch, which its own class "
                "would not compute; expected blocks that were replaced without second_order"
            )
    replaced = []
    for block, name in blocks.items():
        if isinstance(block, Swapped):
            revert(block)
        elif not rebound.release(block):
            continue
        replaced.append(name)
    return replaced


def _swap(
    function: str, model: nn.Module, recognised: Recognise, layouts: Layouts | None
) -> SwapReport:
    if not isinstance(model, nn.Module):
        raise TypeError(f"{function}: model is a {type(model).__name__}; expected torch.nn.Module")
    report = SwapReport()
    sizes.forget()
    done: set[str] = set()
    for module, names in _names(model).items():
        if isinstance(module, Swapped) or any(_within(names[0], other) for other in done):
            done.add(names[0])
            continue
        original = _class_name(module)
        try:
            with quiet():
                found = _found(names[0], module, recognised, layouts)
            if found is not None:
                convert(module, *found)
        except Unfit as unfit:
            report.skipped.append(Skipped(names, original, str(unfit)))
            continue
        if found is not None:
            done.add(names[0])
            layout, conditions = found
            report.replaced.append(Replaced(names, original, layout, conditions.spoken()))
    return report


def _found(
    name: str, module: nn.Module, recognised: Recognise, layouts: Layouts | None
) -> recognise.Found | None:
    known = None
    if isinstance(layouts, Mapping):
        known = layouts.get(type(module))
    elif layouts is not None:
        known = layouts(name, module)
    return recognised(name, module) if known is None else recognise.given(module, known)


def _names(model: nn.Module) -> dict[nn.Module, tuple[str, ...]]:
    """Every module once, parents first, with all of its names."""
    names: dict[nn.Module, tuple[str, ...]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names[module] = (*names.get(module, ()), name)
    return names


def _class_name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _within(name: str, other: str) -> bool:
    return not other or name.startswith(f"{other}.")


def _spoken(names: tuple[str, ...]) -> str:
    return " = ".join(name or "the model itself" for name in names)


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(name or "the model itself" for name in names)
