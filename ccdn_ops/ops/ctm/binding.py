"""ctm of bound parts (registry.Bound): the composition of spec.py without its look-ups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ccdn_ops.backends import registry
from ccdn_ops.backends.registry import Bound
from ccdn_ops.layout import in_order_of
from ccdn_ops.precision import accumulation_dtype, no_autocast


def bind(x: Tensor, *arguments: Any) -> Bound | None:
    """For both orders, in the accumulation dtype, where the backend of each part makes a Bound."""
    *weights, iterations = arguments
    plain = x.dtype == accumulation_dtype(x.dtype) and weights[0].shape[1] == 2
    if not plain or registry.offered("ctm", x, *weights, iterations) is not None:
        return None
    batch, channels = x.shape[:2]
    like_mean, like_gates = (
        x.new_empty(batch, channels),
        x.new_empty(batch, weights[0].shape[0], channels),
    )
    squeeze = _bound("dual_squeeze", (x.flatten(2), iterations), (x, iterations))
    inputs = (like_mean, like_mean, *weights)
    networks = _bound("excitation_gates", inputs, inputs)
    excite = _bound("multi_excite", (x, like_gates), (x, like_gates))
    if squeeze is None or networks is None or excite is None:
        return None
    return _composed(squeeze, networks, excite)


def _bound(part: str, asked: Sequence[Any], arguments: Sequence[Any]) -> Bound | None:
    make = registry.select(part, *asked).bind
    return None if make is None else make(*arguments)


def _composed(squeeze: Bound, networks: Bound, excite: Bound) -> Bound:
    def forward(x: Tensor, *weights: Tensor) -> tuple[Any, tuple[Tensor, ...]]:
        (mean, second), squeezed = squeeze.forward(x)
        gates, scaled = networks.forward(mean, second, *weights)
        excited = excite.inference(x, gates)
        with no_autocast("cpu"):
            pooled = gates * mean.unsqueeze(1)
        return (excited, pooled), (mean, second, *squeezed, gates, *scaled)

    def inference(x: Tensor, *weights: Tensor) -> Any:
        mean, second = squeeze.inference(x)
        gates = networks.inference(mean, second, *weights)
        excited = excite.inference(x, gates)
        with no_autocast("cpu"):
            return excited, gates * mean.unsqueeze(1)

    def backward(
        grads: Sequence[Tensor | None], tensors: Sequence[Tensor]
    ) -> tuple[Tensor | None, ...]:
        grad_excited, grad_pooled = grads
        x, *weights, mean, second, squeezed, gates, scaled = tensors
        grad_x: Tensor | None = None
        grad_gates: Tensor | None = None
        if grad_excited is not None:
            grad_x, grad_gates = excite.backward((grad_excited,), (x, gates))
        if grad_gates is None:
            grad_gates = torch.zeros_like(gates)
        with no_autocast("cpu"):
            if grad_pooled is not None:
                grad_gates = torch.addcmul(grad_gates, grad_pooled, mean.unsqueeze(1))
                grad_mean = (grad_pooled * gates).sum(1)
            inputs = (mean, second, *weights, scaled)
            from_mean, grad_second, *found = networks.backward((grad_gates,), inputs)
            assert from_mean is not None
            grad_mean = from_mean if grad_pooled is None else grad_mean.add_(from_mean)
            (from_squeezes,) = squeeze.backward((grad_mean, grad_second), (x, squeezed))
            assert from_squeezes is not None
            if grad_x is None:
                grad_x = in_order_of(x, from_squeezes)
            else:
                grad_x += from_squeezes
        return grad_x, *found

    def unpacked(saved: Sequence[Tensor]) -> tuple[Tensor, ...]:
        mean, second, squeezed, gates, scaled = saved
        _, trace, gram = squeeze.unpacked((squeezed,))
        return (mean, second, trace, gram, gates, *networks.unpacked((scaled,)))

    return Bound(inference, forward, backward, unpacked)
