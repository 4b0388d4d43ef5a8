"""The levels of cocs_loss as the native kernels take them (csrc/common/cocs_loss.h)."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def in_rows(x: Tensor) -> Tensor:
    """x (B, P, D) with the channels contiguous: itself, or a copy."""
    return x if x.stride(2) == 1 or x.shape[2] == 1 else x.contiguous()


def level_table(features: Sequence[Tensor], grads: Sequence[Tensor] | None = None) -> array[int]:
    """An array of CocsLevel. It holds addresses: the tensors must outlive it."""
    table = array("q")
    for x, grad in zip(features, grads or features, strict=True):
        table.extend((x.data_ptr(), grad.data_ptr(), *x.shape))
        table.extend((x.stride(0), x.stride(1), grad.stride(0), grad.stride(1)))
    return table


def gradients_of_rows(
    features: Sequence[Tensor], run: Callable[[Sequence[Tensor], Sequence[Tensor]], None]
) -> list[Tensor]:
    """The gradients, each laid out like its level; run(rows, grads) writes their rows."""
    rows = [in_rows(level) for level in features]
    grads = [torch.empty_like(level) for level in features]
    written = [  # empty_like keeps strides where it can; the kernel writes rows
        g if in_rows(g) is g else torch.empty_like(r) for g, r in zip(grads, rows, strict=True)
    ]
    run(rows, written)
    for grad, found in zip(grads, written, strict=True):
        if grad is not found:
            grad.copy_(found)
    return grads
