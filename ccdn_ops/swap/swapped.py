"""What a replaced block is: the same object under a subclass of its own class.

The subclass's forward sends the kind of call that was tried, with just a map (B, D, H, W), to the
operators. Everything else runs the block's own forward, as before the swap: calls with more
arguments, maps of other ranks, what torch.fx and TorchScript trace or compile, and all calls once
something that the replacement does not read has changed.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any, NoReturn, cast
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from ccdn_ops.attention import second_order_attention, squeeze_excite
from ccdn_ops.nn import SecondOrderBranch
from ccdn_ops.ops.covariance_pool import covariance_pool
from ccdn_ops.ops.isqrt_cov import isqrt_cov
from ccdn_ops.ops.newton_schulz_sqrt import newton_schulz_sqrt
from ccdn_ops.ops.second_order_squeeze import second_order_squeeze

from .blocks import AttentionLayout, FunctionLayout, Layout, PoolingLayout, Step, Unfit
from .calls import is_tried
from .watch import Conditions


def convert(module: nn.Module, layout: Layout, conditions: Conditions | None = None) -> None:
    """Makes a module compute its layout with the operators while the conditions hold.

    Only its class changes. That replaces it everywhere at once: as the root of a model, in several
    parents, and in lists and closures that no search would find. Parameters, hooks, mode and all
    names in its state_dict stay as they are.
    """
    kind: type[Swapped]
    if isinstance(layout, FunctionLayout):
        kind = SwappedCall
    elif isinstance(layout, PoolingLayout):
        kind = SwappedISqrtCovPool
    elif layout.squeeze == "mean":
        kind = SwappedSqueezeExcite
    else:
        kind = SwappedSecondOrderAttention
    _become(module, kind, type(module))
    block = cast(Any, module)
    block._swap_layout = layout
    block._swap_conditions = conditions or Conditions()


def revert(block: Swapped) -> None:
    """Gives a replaced block its own class back."""
    block.__class__ = block._swap_original  # type: ignore[assignment]
    del block._swap_layout, block._swap_conditions


def add_second_order(block: SwappedSqueezeExcite, iterations: int) -> SecondOrderBranch:
    """Adds the child `second`, whose logits are zero until it is trained."""
    layout: AttentionLayout = cast(Any, block)._swap_layout
    steps = block._swap_steps(layout.layers)
    weights = [s.weight for s in steps if isinstance(s, (nn.Conv2d, nn.Linear))]
    channels = weights[-1].shape[0]
    # A single layer has no bottleneck whose width could be adopted.
    hidden = weights[0].shape[0] if len(weights) > 1 else max(channels // 16, 1)
    branch = SecondOrderBranch(channels, hidden, weights[0].device, weights[0].dtype)
    _become(block, SwappedSqueezeExciteOfSecondOrder, block._swap_original)
    block.second = branch.train(block.training)
    changed = cast(Any, block)
    changed._swap_layout = dataclasses.replace(layout, iterations=iterations)
    conditions: Conditions = changed._swap_conditions
    changed._swap_conditions = dataclasses.replace(
        conditions,
        parts=tuple(
            (path, cls, children if path else tuple(block._modules))
            for path, cls, children in conditions.parts
        ),
    )
    return branch


# No annotation in these classes and no name without _swap_: a block's own class follows them in
# the order of resolution, and TorchScript reads the annotations of both as one.
class Swapped(nn.Module):
    """A replaced block; `_swap_layout` says what its children are for."""

    _swap_original = nn.Module
    _swap_kind = nn.Module

    def _swap_call(
        self,
        original: Callable[..., Any],
        parameter: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        x = args[0] if len(args) == 1 and not kwargs else None
        if len(kwargs) == 1 and not args:
            x = kwargs.get(parameter)
        conditions: Conditions = cast(Any, self)._swap_conditions
        if is_tried(x, (4,), conditions.dtypes) and conditions.hold(self):
            return self._swap_operators(x)
        return original(self, *args, **kwargs)

    def _swap_operators(self, x: Any) -> Tensor:
        raise NotImplementedError

    def _swap_steps(self, names: tuple[Step, ...]) -> list[Callable[[Tensor], Tensor]]:
        return [_descendant(self, step) if isinstance(step, str) else step for step in names]

    def extra_repr(self) -> str:
        return str(self._swap_layout)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Classes that are made as they are needed have no name to be found by.
        return _restored, (self._swap_kind, self._swap_original), dict(vars(self))


class SwappedSqueezeExcite(Swapped):
    """ccdn_ops.nn.SqueezeExcite over the children of the block that it replaces."""

    def _swap_operators(self, x: Any) -> Tensor:
        layout: AttentionLayout = cast(Any, self)._swap_layout
        layers, gate = self._swap_steps(layout.layers), self._swap_steps(layout.gate)
        return squeeze_excite(x, layers, gate)


class SwappedSqueezeExciteOfSecondOrder(SwappedSqueezeExcite):
    """The same with a branch that the block's own forward cannot compute, so it is no fallback."""

    def _swap_call(
        self,
        original: Callable[..., Any],
        parameter: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Tensor:
        given = dict(zip((parameter,), args, strict=False)) | kwargs
        if len(args) + len(kwargs) != 1 or parameter not in given:
            raise TypeError(
                f"a block with a second-order branch takes {parameter} (B, D, H, W) alone; found "
                f"{len(args)} arguments and the keywords {sorted(kwargs)}"
            )
        conditions: Conditions = cast(Any, self)._swap_conditions
        if not conditions.hold(self):
            raise RuntimeError(
                "a block with a second-order branch computes what it did at the swap, with "
                f"{conditions.spoken() or 'the same parts'}; something of that has changed"
            )
        return self._swap_operators(given[parameter])

    def _swap_operators(self, x: Any) -> Tensor:
        layout: AttentionLayout = cast(Any, self)._swap_layout
        layers, gate = self._swap_steps(layout.layers), self._swap_steps(layout.gate)
        return squeeze_excite(x, layers, gate, cast(nn.Module, self.second), layout.iterations)

    def __prepare_scriptable__(self) -> NoReturn:
        raise NotImplementedError(
            "torch.jit.script compiles a block's own forward, which has no second-order branch; "
            "torch.jit.trace takes it along"
        )


class SwappedSecondOrderAttention(Swapped):
    """ccdn_ops.nn.SecondOrderAttention over the children of the block that it replaces."""

    def _swap_operators(self, x: Any) -> Tensor:
        layout: AttentionLayout = cast(Any, self)._swap_layout
        layers, gate = self._swap_steps(layout.layers), self._swap_steps(layout.gate)
        return second_order_attention(x, layers, gate, layout.iterations, layout.window)


class SwappedISqrtCovPool(Swapped):
    """ccdn_ops.nn.ISqrtCovPool after the dimension reduction of the head that it replaces."""

    def _swap_operators(self, x: Any) -> Tensor:
        layout: PoolingLayout = cast(Any, self)._swap_layout
        for step in self._swap_steps(layout.before):
            x = step(x)
        if layout.output == "mean":
            pooled = second_order_squeeze(x, layout.iterations)
        else:
            pooled = isqrt_cov(x, layout.iterations, triu=layout.output == "triu")
        if layout.output == "flat":
            pooled = pooled.flatten(1)
        return pooled.view(*pooled.shape, *(1,) * layout.trailing)


class SwappedCall(Swapped):
    """A function's call, while it is probed (functions.py)."""

    def _swap_operators(self, x: Any) -> Tensor:
        call = cast(Any, self)
        layout: FunctionLayout = call._swap_layout
        return computed(layout, call.given(x), layout.iterations[0])


def computed(layout: FunctionLayout, x: Tensor, iterations: int) -> Tensor:
    """What a function computes, by the operators."""
    if layout.kind == "covariance":
        return covariance_pool(x)
    if layout.kind == "root":
        return newton_schulz_sqrt(x, iterations)
    if layout.kind == "triu":
        rows, columns = torch.triu_indices(*x.shape[1:], device=x.device)
        found = x.flatten(1).index_select(1, rows * x.shape[1] + columns)
    elif layout.output == "mean":
        found = second_order_squeeze(x, iterations)
    else:
        found = isqrt_cov(x, iterations, triu=layout.output == "triu")
        if layout.output == "flat":
            found = found.flatten(1)
    return found.view(*found.shape, *(1,) * layout.trailing)


_classes: WeakValueDictionary[tuple[type, int], type] = WeakValueDictionary()


def _become(module: nn.Module, kind: type[Swapped], original: type[nn.Module]) -> None:
    try:
        module.__class__ = _class(kind, original)
    except TypeError as error:
        raise Unfit(f"its class cannot be changed: {error}") from error


def _class(kind: type[Swapped], original: type[nn.Module]) -> type[Swapped]:
    """The kind of replacement as a subclass of a block's own class, made once."""
    # It holds the class, so that the id belongs to no other as long as it is here.
    made = _classes.get((kind, id(original)))
    if made is None:
        body = {"forward": _forward(original), "_swap_original": original, "_swap_kind": kind}
        made = _classes[kind, id(original)] = subclass(kind, kind, original, body=body)
    return made


def subclass(namesake: type, *bases: type, body: dict[str, Any]) -> Any:
    """A class with the name and docstring of another, and the annotations of the first base after
    it that has some."""
    described: dict[str, Any] = {
        "__module__": namesake.__module__,
        "__qualname__": namesake.__qualname__,
        "__doc__": namesake.__doc__,
    }
    for cls in (cls for base in bases[1:] or bases for cls in base.__mro__):
        if "__annotations__" in vars(cls):  # TorchScript reads those of the first that has some
            described["__annotations__"] = dict(vars(cls)["__annotations__"])
            break
    return type(namesake.__name__, bases, {**body, **described})


def _forward(original: type[nn.Module]) -> FunctionType:
    """A forward that dispatches, and that torch.jit.script reads as the block's own.

    TorchScript takes the source of what a function wraps, and resolves the names in it among the
    globals and free variables of the function itself.
    """
    own = original.forward
    if not isinstance(own, FunctionType):
        raise Unfit(f"its forward is a {type(own).__name__}; expected a function")
    dispatch = _dispatch(own, _parameter(own))
    scope = own.__globals__
    if own.__closure__:
        cells = zip(own.__code__.co_freevars, own.__closure__, strict=True)
        scope = {**scope, **{name: cell.cell_contents for name, cell in cells}}
    made = FunctionType(dispatch.__code__, scope, "forward", None, dispatch.__closure__)
    made.__wrapped__ = own  # type: ignore[attr-defined]
    made.__module__, made.__doc__ = own.__module__, own.__doc__
    return made


def _dispatch(_swap_original: FunctionType, _swap_parameter: str) -> FunctionType:
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self._swap_call(_swap_original, _swap_parameter, args, kwargs)

    return cast(FunctionType, forward)


def _parameter(own: Callable[..., Any]) -> str:
    """The name of the argument that is the map."""
    parameters = list(inspect.signature(own).parameters.values())[1:]
    kinds = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    if not parameters or parameters[0].kind not in kinds:
        raise Unfit("its forward names no argument for the map")
    return parameters[0].name


def _restored(kind: type[Swapped], original: type[nn.Module]) -> nn.Module:
    cls = _class(kind, original)
    return cls.__new__(cls)


def _descendant(module: nn.Module, name: str) -> nn.Module:
    for part in name.split("."):
        module = getattr(module, part)
    return module
