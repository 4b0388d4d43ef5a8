"""Derivatives beyond the first, and forward mode: PyTorch differentiates the reference.

The kernels have one derivative, in reverse. All others are rare (gradient penalties, Hessians), so
they cost what the literal code costs: a second derivative and a forward-mode derivative are one or
two passes of the reference and two of its gradient, with all the matrices that they keep.
torch.func.vjp is used and nothing else, because it can be nested in itself, in every transform of
torch.func, in autograd and in a dual level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ccdn_ops.precision import no_autocast

Tensors = Sequence[Tensor | None]


def pulled_back(function: Callable[..., Any], arguments: Tensors, cotangents: Tensors) -> Any:
    """The gradients of the arguments through the function of them, a tensor or several.

    A cotangent None is 0, an argument None has no gradient. There is at least one of each.
    """
    given = [x for x in arguments if x is not None]
    reached = [i for i, cotangent in enumerate(cotangents) if cotangent is not None]

    def outputs(*given: Tensor) -> tuple[Tensor, ...]:
        left = iter(given)
        found = function(*(None if x is None else next(left) for x in arguments))
        found = (found,) if isinstance(found, Tensor) else found
        return tuple(found[i] for i in reached)

    with no_autocast(given[0].device.type):
        pullback: Any = torch.func.vjp(outputs, *given)[1]
        found = iter(pullback(tuple(cotangents[i] for i in reached)))
    return [None if x is None else next(found) for x in arguments]


def of_gradient(
    function: Callable[..., Any], inputs: Tensors, grads: Tensors, cotangents: Tensors
) -> tuple[Tensors, Tensors]:
    """The gradients, of grads and of inputs, through pulled_back(function, inputs, grads)."""
    found = pulled_back(*_gradient(function, inputs, grads), cotangents)
    return found[: len(grads)], found[len(grads) :]


def along(function: Callable[..., Any], arguments: Tensors, tangents: Tensors) -> Any:
    """The derivatives of the function of the arguments along the tangents; a tangent None is 0.

    The gradient is linear in the gradients of the outputs; this is the transpose of that map.
    """
    with torch.no_grad(), no_autocast(next(x for x in arguments if x is not None).device.type):
        outputs = function(*arguments)
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    nothing = [None if y is None else torch.zeros_like(y) for y in outputs]
    return pulled_back(lambda *grads: pulled_back(function, arguments, grads), nothing, tangents)


def of_gradient_along(
    function: Callable[..., Any], inputs: Tensors, grads: Tensors, tangents: Tensors
) -> Any:
    """The derivatives of pulled_back(function, inputs, grads) along the tangents of grads and
    inputs."""
    return along(*_gradient(function, inputs, grads), tangents)


def _gradient(
    function: Callable[..., Any], inputs: Tensors, grads: Tensors
) -> tuple[Callable[..., Any], Tensors]:
    """pulled_back as a function of grads and inputs, and those."""
    count = len(grads)
    return lambda *a: pulled_back(function, a[count:], a[:count]), (*grads, *inputs)
