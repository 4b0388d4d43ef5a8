"""cocs_loss: schema, fake kernel, and what a backend must provide.

features, L levels of (B, P, D), each with its own sizes but all of one dtype, any strides ->
losses (L,) in the features' dtype; sums in the accumulation dtype (float64 for float64, else
float32), flat: for each level in turn S (P, D), the sum over the batch of f / max(|f|, 1e-12).

The loss and its gradient depend on the other samples through the sums alone: for the batch of
several processes, the sums of all of them are added up, and the backward pass is given the total.

A backend provides

  forward(features) -> losses, sums
  backward(grad_losses, features, sums) -> the gradients of the features, one a level

and gets L >= 1 levels, some perhaps with B = 0, grad_losses and sums contiguous, grad_losses in
the features' dtype; a gradient has the strides of torch.empty_like(its level). A vector shorter
than 1e-12 gets no gradient, and neither does a level whose sums are all zero: its loss is 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ccdn_ops.backends import registry
from ccdn_ops.ops.operator import Operator, define
from ccdn_ops.ops.raw import looped
from ccdn_ops.precision import accumulation_dtype, no_autocast
from ccdn_ops.work import Call, Work


def _cocs_loss_empty(features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    x = features[0]
    size = sum(level.shape[1] * level.shape[2] for level in features)
    return x.new_empty(len(features)), x.new_empty(size, dtype=accumulation_dtype(x.dtype))


def _cocs_loss_grad_empty(
    grad_losses: Tensor, features: Sequence[Tensor], sums: Tensor
) -> list[Tensor]:
    return [torch.empty_like(level) for level in features]


def _cocs_loss(features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    backend = registry.select("cocs_loss", features[0])
    with no_autocast(features[0].device.type):
        return backend.forward(features)


def _cocs_loss_backward(
    grad_losses: Tensor, features: Sequence[Tensor], sums: Tensor
) -> list[Tensor]:
    backend = registry.select("cocs_loss", features[0])
    with no_autocast(features[0].device.type):
        return backend.backward(grad_losses.contiguous(), features, sums.contiguous())


def work(x: Tensor, call: Call) -> Work:
    """Of one level, x (B, P, D)."""
    _, excitations, channels = x.shape
    numbers = x.numel()
    sums = excitations * channels * accumulation_dtype(x.dtype).itemsize
    read = (numbers + 1) * x.element_size() + sums
    products = 2 * excitations * excitations * channels  # S S^T, or its gradient
    return Work(
        "Q = S S^T / B^2 of the sums S over the batch",
        (read, read + numbers * x.element_size()),
        # Norm, division and sum; norm, product with the sums' gradient, and the gradient.
        (4 * numbers + products, 7 * numbers + 2 * products),
    )


def _calls(x: Tensor) -> list[tuple[list[list[Tensor]], tuple[()]]]:
    level = x.flatten(2)[:, :4]
    return [([[level, level.mT]], ())]


OPERATOR = define(
    Operator(
        name="cocs_loss",
        first="(B, P, D)",
        schema="(Tensor[] features) -> (Tensor losses, Tensor sums)",
        kernel=_cocs_loss,
        backward=_cocs_loss_backward,
        fake=_cocs_loss_empty,
        backward_fake=_cocs_loss_grad_empty,
        vmap=looped,
        work=work,
        tensors={"a level": "BPD", "another": "BPR"},
        arrange=lambda *levels: (levels,),
        results=["L"],
        samples=0,
        calls=_calls,
    )
)
