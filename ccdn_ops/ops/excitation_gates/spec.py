"""excitation_gates: schema, fake kernel, and what a backend must provide.

first, second (B, D); reduce_weight (P, O, R, D), reduce_bias (P, O, R), expand_weight (P, O, D, R),
expand_bias (P, O, D); second is None when O is 1 -> gates (B, P, D) in first's dtype; hidden
(B, P, O, R), after the ReLU, and scales (B, P, O, D), the sigmoids, both in the accumulation dtype
(float64 for float64, else float32).

A backend provides

  forward(first, second, reduce_weight, reduce_bias, expand_weight, expand_bias)
      -> gates, hidden, scales
  backward(grad_gates, first, second, reduce_weight, reduce_bias, expand_weight, expand_bias,
           hidden, scales) -> the gradients of the six inputs; None for second if it is None

and receives everything contiguous, with B >= 1: grad_gates and both squeezes in first's dtype, the
weights in their own. Gates and gradients may be in the accumulation dtype or in their own, first's
and their inputs'. `in_wide` makes a backend of one whose kernels take the accumulation dtype only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from ccdn_ops.backends import registry
from ccdn_ops.ops.operator import Operator, define
from ccdn_ops.ops.raw import looped
from ccdn_ops.precision import accumulation_dtype, no_autocast
from ccdn_ops.work import Call, Work

WEIGHTS = {
    "reduce_weight": "PORD",
    "reduce_bias": "POR",
    "expand_weight": "PODR",
    "expand_bias": "POD",
}
INPUTS = 2 + len(WEIGHTS)


def outputs(
    first: Tensor,
    second: Tensor | None,
    reduce_weight: Tensor,
    reduce_bias: Tensor,
    expand_weight: Tensor,
    expand_bias: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Empty outputs of a forward pass, for backends to fill and for the fake kernel."""
    p, o, r, d = reduce_weight.shape
    batch, wide = first.shape[0], accumulation_dtype(first.dtype)
    return (
        first.new_empty(batch, p, d),
        first.new_empty(batch, p, o, r, dtype=wide),
        first.new_empty(batch, p, o, d, dtype=wide),
    )


def empty_gradients(*inputs: Tensor | None) -> tuple[Tensor | None, ...]:
    """Empty gradients of the inputs, for backends to fill."""
    return tuple(None if x is None else torch.empty_like(x) for x in inputs)


def _gates_grads_empty(grad_gates: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    first, inputs = arguments[0], arguments[:INPUTS]
    return tuple(first.new_empty(0) if x is None else x.new_empty(x.shape) for x in inputs)


def packed(dtype: torch.dtype, *tensors: Tensor | None) -> list[Any]:
    """Contiguous and of this dtype."""
    return [None if t is None else t.to(dtype).contiguous() for t in tensors]


def given(dtype: torch.dtype, *inputs: Tensor | None) -> list[Any]:
    """The inputs as a backend receives them: squeezes of this dtype, the weights as they are."""
    weights = [w.contiguous() for w in inputs[2:] if w is not None]
    return [*packed(dtype, *inputs[:2]), *weights]


def in_wide(function: Callable[..., Any]) -> Callable[..., Any]:
    """A backend's function, called with all tensors in the accumulation dtype of the first."""

    @wraps(function)
    def call(*arguments: Tensor | None) -> Any:
        first = arguments[0]
        assert first is not None
        return function(*packed(accumulation_dtype(first.dtype), *arguments))

    return call


def _gates(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    first = inputs[0]
    if first.shape[0] == 0:
        return outputs(*inputs)
    backend = registry.select("excitation_gates", *inputs)
    with no_autocast(first.device.type):
        gates, hidden, scales = backend.forward(*given(first.dtype, *inputs))
    return gates.to(first.dtype), hidden, scales


def _gates_backward(grad_gates: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    inputs, (hidden, scales) = arguments[:INPUTS], arguments[INPUTS:]
    first = inputs[0]
    if first.shape[0] == 0:
        return tuple(first.new_empty(0) if x is None else x.new_zeros(x.shape) for x in inputs)
    backend = registry.select("excitation_gates", *inputs)
    with no_autocast(first.device.type):
        (upstream,) = packed(first.dtype, grad_gates)
        saved = packed(hidden.dtype, hidden, scales)
        found = backend.backward(upstream, *given(first.dtype, *inputs), *saved)
    return tuple(
        first.new_empty(0) if x is None else grad.to(x.dtype)
        for x, grad in zip(inputs, found, strict=True)
    )


def work(x: Tensor, call: Call) -> Work:
    """x is first, (B, D)."""
    batch, channels = x.shape
    return networks_work(batch, channels, x.dtype, call)


def networks_work(batch: int, channels: int, dtype: torch.dtype, call: Call) -> Work:
    """Of squeezes (B, D) of this dtype."""
    networks = call.excitations * call.orders
    hidden = hidden_units(channels, call)
    size, wide = dtype.itemsize, accumulation_dtype(dtype).itemsize
    squeezes = batch * channels * call.orders
    gates = batch * channels * call.excitations
    weights = networks * (2 * channels * hidden + channels + hidden)
    saved = wide * batch * networks * (channels + hidden)
    moved = size * (squeezes + weights + gates) + saved
    # Both layers; twice as much for the gradients of what goes in and of the weights. The reference
    # computes the forward pass again.
    forward = 4 * batch * networks * channels * hidden
    return Work(
        f"{networks} bottlenecks of {hidden} units",
        (moved, moved + size * (squeezes + weights)),
        (forward, (3 if call.literal else 2) * forward),
    )


def hidden_units(channels: int, call: Call) -> int:
    """R: that of the call, or the paper's D / 4."""
    return max(channels // 4, 1) if call.hidden is None else call.hidden


OPERATOR = define(
    Operator(
        name="excitation_gates",
        first="(B, D)",
        schema="(Tensor first, Tensor? second, Tensor reduce_weight, Tensor reduce_bias, "
        "Tensor expand_weight, Tensor expand_bias) -> (Tensor gates, Tensor hidden, Tensor scales)",
        kernel=_gates,
        backward=_gates_backward,
        fake=outputs,
        backward_fake=_gates_grads_empty,
        vmap=looped,
        work=work,
        # As a part of ctm it is asked about its maps.
        asked=lambda x, call: (x.flatten(2).select(2, 0) if x.dim() > 2 else x,),
        tensors={"first": "BD", "second": "BD", **WEIGHTS},
        results=["BPD"],
        samples=2,
        second_order=("second",),
        variants=[{"orders": 1}],
    )
)
