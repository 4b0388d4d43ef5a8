"""excitation_gates in plain PyTorch (eqs. 3 and 4)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ccdn_ops.backends import registry
from ccdn_ops.backends.reference.autograd import gradients
from ccdn_ops.ops.excitation_gates.spec import INPUTS, in_wide
from ccdn_ops.precision import accumulation_dtype, no_autocast


def excitation_gates(
    first: Tensor,
    second: Tensor | None,
    reduce_weight: Tensor,
    reduce_bias: Tensor,
    expand_weight: Tensor,
    expand_bias: Tensor,
) -> Tensor:
    """The gates (B, P, D) of first and second (B, D), differentiable by autograd.

    Eq. 3's sigmoids for every excitation and order, and their sum over the orders: the factor that
    eq. 4 puts before X. In first's dtype, computed in float64 for float64 and in float32 for the
    others, under autocast too; weights of other dtypes are taken.
    """
    wide = accumulation_dtype(first.dtype)
    weights = (reduce_weight, reduce_bias, expand_weight, expand_bias)
    with no_autocast(first.device.type):
        gates, *_ = bottlenecks(
            first.to(wide),
            None if second is None else second.to(wide),
            *(w.to(wide) for w in weights),
        )
        return gates.to(first.dtype)


def bottlenecks(
    first: Tensor,
    second: Tensor | None,
    reduce_weight: Tensor,
    reduce_bias: Tensor,
    expand_weight: Tensor,
    expand_bias: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """gates (B, P, D), hidden (B, P, O, R) and scales (B, P, O, D), all of one dtype."""
    kappa = torch.stack([first] if second is None else [first, second], 1)  # [B, O, D]
    # W_V, with weights of its own for each p and order
    hidden = torch.einsum("bod,pord->bpor", kappa, reduce_weight) + reduce_bias
    hidden = hidden.relu()
    # W_U
    scales = torch.einsum("bpor,podr->bpod", hidden, expand_weight) + expand_bias
    scales = scales.sigmoid()
    return scales.sum(2), hidden.contiguous(), scales.contiguous()


def _backward(grad_gates: Tensor, *arguments: Any) -> tuple[Tensor | None, ...]:
    inputs = arguments[:INPUTS]

    def literal(*given: Tensor) -> Tensor:
        left = iter(given)
        return bottlenecks(*(None if x is None else next(left) for x in inputs))[0]  # type: ignore

    found = iter(gradients(literal, [x for x in inputs if x is not None], [grad_gates]))
    # Clones, because those of first and second are parts of one tensor.
    return tuple(
        None if x is None else next(found).clone(memory_format=torch.contiguous_format)
        for x in inputs
    )


registry.register(
    "excitation_gates",
    backend="reference",
    forward=in_wide(bottlenecks),
    backward=in_wide(_backward),
)
