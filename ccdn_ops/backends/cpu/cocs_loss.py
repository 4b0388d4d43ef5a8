"""cocs_loss on the CPU, through csrc/cpu/cocs_loss.cpp."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import torch
from torch import Tensor

from ccdn_ops.backends import native, registry
from ccdn_ops.backends.cpu.scratch import scratch_memory


def _supports(x: Tensor, *_: object) -> str | None:
    if x.device.type != "cpu":
        return f"the native CPU kernels serve CPU tensors, not {x.device.type}"
    return native.why_missing()


def _rows(x: Tensor) -> Tensor:
    """x (B, P, D) with the channels contiguous."""
    return x if x.stride(2) == 1 or x.shape[2] == 1 else x.contiguous()


def _table(features: Sequence[Tensor], grads: Sequence[Tensor] | None = None) -> array[int]:
    """The levels as csrc/common/cocs_loss.h has them."""
    table = array("q")
    for x, grad in zip(features, grads or features, strict=True):
        table.extend((x.data_ptr(), grad.data_ptr(), *x.shape))
        table.extend((x.stride(0), x.stride(1), grad.stride(0), grad.stride(1)))
    return table


def _forward(features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    module, x = native.require(), features[0]
    rows = [_rows(level) for level in features]
    wide = native.accumulation_dtype(x.dtype)
    losses = x.new_empty(len(rows))
    sums = x.new_empty(sum(r.shape[1] * r.shape[2] for r in rows), dtype=wide)
    table = _table(rows)
    shape = (native.DTYPE_CODES[x.dtype], len(rows), table.buffer_info()[0])
    scratch = scratch_memory(module.cocs_loss_workspace_cpu(*shape, False))
    native.launch("cocs_loss", module.cocs_loss_forward_cpu, *shape, losses, sums, scratch)
    return losses, sums


def _backward(grad_losses: Tensor, features: Sequence[Tensor], sums: Tensor) -> list[Tensor]:
    module = native.require()
    rows = [_rows(level) for level in features]
    grads = [torch.empty_like(level) for level in features]
    written = [  # empty_like keeps what strides it can; the kernel writes rows
        g if _rows(g) is g else torch.empty_like(r) for g, r in zip(grads, rows, strict=True)
    ]
    table = _table(rows, written)
    shape = (native.DTYPE_CODES[rows[0].dtype], len(rows), table.buffer_info()[0])
    scratch = scratch_memory(module.cocs_loss_workspace_cpu(*shape, True))
    native.launch(
        "cocs_loss_backward", module.cocs_loss_backward_cpu, *shape, grad_losses, sums, scratch
    )
    for grad, found in zip(grads, written, strict=True):
        if grad is not found:
            grad.copy_(found)
    return grads


registry.register(
    "cocs_loss", backend="cpu", forward=_forward, backward=_backward, supports=_supports
)
