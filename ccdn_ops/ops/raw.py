"""What the raw operators share: the library, registration, and batching rules."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor

from ccdn_ops.backends import registry

library = torch.library.Library("ccdn", "DEF")


# Of every raw operator: how many multiplications and additions a call with these arguments takes.
OPERATIONS: dict[str, Callable[..., int]] = {}


def register(
    schema: str,
    *,
    kernel: Callable[..., Any],
    fake: Callable[..., Any],
    vmap: Callable[..., Any],
    operations: Callable[..., int],
) -> None:
    """Define one raw operator.

    `vmap` is one of the rules below, or made like them. `operations` takes the operator's arguments
    by the schema's names and looks at shapes, dtypes and devices only: sizes may be symbols, and
    an operation on a tensor would be recorded by whoever traces the call.
    """
    library.define(schema)
    name = schema.partition("(")[0]
    OPERATIONS[name] = operations
    library.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"ccdn::{name}", fake, lib=library)
    torch.library.register_vmap(f"ccdn::{name}", vmap, lib=library)


def sizes(x: Tensor) -> tuple[int, int, int]:
    """(B, D, N) of x (B, D, N) or (B, D, H, W), which is not touched."""
    return x.shape[0], x.shape[1], prod(x.shape[2:])


def literally(operator: str, x: Tensor, *arguments: Any) -> bool:
    """Whether the reference serves such a call: x and what follows in the forward schema.

    Meta tensors, which no kernel serves, count as the CPU's.
    """
    if registry.override() is not None:
        return registry.override() == "reference"
    if x.is_meta:
        x = torch.empty(0, dtype=x.dtype)
    return registry.select(operator, x, *arguments).backend == "reference"


def folded(name: str) -> Callable[..., Any]:
    """The batching rule of an operator whose tensors all have the samples first: (V, B, ...) is
    folded into (V * B, ...)."""

    def rule(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        size, samples = info.batch_size, None
        arguments = []
        for x, dim in zip(args, in_dims, strict=True):
            if not isinstance(x, Tensor):
                arguments.append(x)
                continue
            x = x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
            samples = x.shape[1] if samples is None else samples
            arguments.append(x.flatten(0, 1))
        outputs = getattr(torch.ops.ccdn, name)(*arguments)
        # V and B may be 0, so neither is inferred.
        if isinstance(outputs, Tensor):
            return outputs.unflatten(0, (size, samples)), 0
        return tuple(out.unflatten(0, (size, samples)) for out in outputs), (0,) * len(outputs)

    return rule


def looped(name: str) -> Callable[..., Any]:
    """The batching rule of any other operator: one call for each of the V, stacked."""

    def rule(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        operator = getattr(torch.ops.ccdn, name)

        def pick(x: Any, dim: Any, index: int) -> Any:
            if isinstance(x, (list, tuple)):
                return [pick(e, d, index) for e, d in zip(x, dim, strict=True)]
            if not isinstance(x, Tensor) or dim is None:
                return x
            return (
                x.select(dim, index)
                if info.batch_size
                else x.movedim(dim, 0).new_zeros(x.movedim(dim, 0).shape[1:])
            )

        calls = []
        for index in range(max(info.batch_size, 1)):  # nothing to map over still has a shape
            picked = (pick(x, dim, index) for x, dim in zip(args, in_dims, strict=True))
            found = operator(*picked)
            calls.append((found,) if isinstance(found, Tensor) else tuple(found))
        stacked = [torch.stack(outs)[: info.batch_size] for outs in zip(*calls, strict=True)]
        if isinstance(found, Tensor):
            return stacked[0], 0
        container = list if isinstance(found, list) else tuple
        return container(stacked), container([0] * len(stacked))

    return rule
