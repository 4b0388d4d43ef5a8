"""What the raw operators share: the library, registration, kernels for a map, batching rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from ccdn_ops.backends import registry
from ccdn_ops.names import NAMESPACE
from ccdn_ops.precision import no_autocast

library = torch.library.Library(NAMESPACE, "DEF")


# For every raw operator, the multiplications and additions of a call with these arguments.
OPERATIONS: dict[str, Callable[..., int]] = {}


def register(
    schema: str,
    *,
    kernel: Callable[..., Any] | None,
    fake: Callable[..., Any] | None,
    vmap: Callable[..., Any],
    operations: Callable[..., int],
) -> None:
    """Define one raw operator.

    `vmap` is one of the rules below, or made like them. `operations` takes the operator's arguments
    by the schema's names and reads only shapes, dtypes and devices: sizes may be symbols, and a
    tracer would record any operation on a tensor.
    """
    library.define(schema)
    name = schema.partition("(")[0]
    OPERATIONS[name] = operations
    library.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=library)
    torch.library.register_vmap(f"{NAMESPACE}::{name}", vmap, lib=library)


def packet(name: str) -> Any:
    """The raw operator of this name."""
    return getattr(getattr(torch.ops, NAMESPACE), name)


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


def will_differentiate(x: Tensor) -> bool:
    """Whether a gradient may be requested, so that saving what it needs pays off."""
    if torch.compiler.is_exporting():  # an exported graph is the forward pass alone
        return False
    if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
        return True
    return torch.is_grad_enabled() and x.requires_grad


def kernels_of_maps(
    name: str, empty: Callable[..., Any], results: Sequence[str]
) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """Forward and backward kernels, and the backward fake, of an operator of one feature map.

    Its backends get x as (B, D, N) with B >= 1 and any strides and everything else contiguous, and
    give a gradient with the strides of torch.empty_like(x). `empty(x, *options)` makes its outputs;
    `results` are the sizes of the public ones, of which a gradient that does not exist is made.
    """
    count = len(results)

    def forward(x: Tensor, *options: Any) -> Any:
        if x.shape[0] == 0:
            return empty(x, *options)
        # A view for NCHW and channels_last alike; a copy only where H, W have no common stride.
        flat = x.flatten(2)
        backend = registry.select(name, flat, *options)
        with no_autocast(x.device.type):
            return backend.forward(flat, *options)

    def backward(*arguments: Any) -> Tensor:
        grads, x, rest = arguments[:count], arguments[count], arguments[count + 1 :]
        flat = x.flatten(2)
        if x.shape[0] == 0:
            return torch.empty_like(flat).view(x.shape)
        options = [value for value in rest if not isinstance(value, Tensor)]
        backend = registry.select(name, flat, *options)
        # Under vmap a tensor without the mapped dimension arrives expanded: its stride there is 0.
        given = [
            _zeros(x, letters) if grad is None else grad.contiguous()
            for grad, letters in zip(grads, results, strict=True)
        ]
        saved = [value.contiguous() for value in rest if isinstance(value, Tensor)]
        with no_autocast(x.device.type):
            grad_x = backend.backward(*given, flat, *saved, *options)
        return grad_x.view(x.shape)

    def backward_empty(*arguments: Any) -> Tensor:
        x = arguments[count]
        return torch.empty_like(x.flatten(2)).view(x.shape)

    return forward, backward, backward_empty


def _zeros(x: Tensor, letters: str) -> Tensor:
    """A zero gradient for an output of these sizes that has none."""
    return x.new_zeros([x.shape["BD".index(letter)] for letter in letters])


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
        outputs = packet(name)(*arguments)
        # V and B may be 0, so neither is inferred.
        if isinstance(outputs, Tensor):
            return outputs.unflatten(0, (size, samples)), 0
        return tuple(out.unflatten(0, (size, samples)) for out in outputs), (0,) * len(outputs)

    return rule


def looped(name: str) -> Callable[..., Any]:
    """The batching rule of any other operator: one call for each of the V, stacked."""

    def rule(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        operator = packet(name)

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
