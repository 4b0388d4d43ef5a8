"""cocs_loss on the CPU, through csrc/cpu/ops/cocs_loss.cpp."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import torch
from torch import Tensor

from ccdn_ops.backends import native, registry, structs
from ccdn_ops.backends.cpu.device import register
from ccdn_ops.backends.cpu.scratch import scratch_memory
from ccdn_ops.backends.levels import gradients_of_rows, in_rows, level_table
from ccdn_ops.precision import accumulation_dtype


def _forward(features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    module, x = native.require(), features[0]
    rows = [in_rows(level) for level in features]
    wide = accumulation_dtype(x.dtype)
    losses = x.new_empty(len(rows))
    sums = x.new_empty(sum(r.shape[1] * r.shape[2] for r in rows), dtype=wide)
    table = level_table(rows)
    shape = structs.cocs_shape(x.dtype, table, len(rows))
    scratch = scratch_memory(module.cocs_loss_workspace_cpu(shape, False))
    native.launch("cocs_loss", module.cocs_loss_forward_cpu, shape, losses, sums, scratch)
    return losses, sums


def _backward(grad_losses: Tensor, features: Sequence[Tensor], sums: Tensor) -> list[Tensor]:
    module = native.require()

    def run(rows: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
        table = level_table(rows, grads)
        shape = structs.cocs_shape(rows[0].dtype, table, len(rows))
        scratch = scratch_memory(module.cocs_loss_workspace_cpu(shape, True))
        native.launch(
            "cocs_loss_backward", module.cocs_loss_backward_cpu, shape, grad_losses, sums, scratch
        )

    return gradients_of_rows(features, run)


def _bind(*features: Tensor) -> registry.Bound | None:
    grads = [torch.empty_like(x) for x in features]
    if any(in_rows(x) is not x for x in (*features, *grads)):
        return None
    module, x, count = native.require(), features[0], len(features)
    run, differentiate = module.cocs_loss_forward_cpu, module.cocs_loss_backward_cpu
    # The addresses in it are those of each call.
    table = level_table(features, grads)
    stride = len(table) // count
    shape = structs.cocs_shape(x.dtype, table, count)
    workspaces = [module.cocs_loss_workspace_cpu(shape, b) for b in (False, True)]
    numbers = sum(level.shape[1] * level.shape[2] for level in features)
    dtype, wide = x.dtype, accumulation_dtype(x.dtype)

    def levels(features: Sequence[Tensor], grads: Sequence[Tensor]) -> array[int]:
        found, at = table[:], 0
        for level, grad in zip(features, grads, strict=True):
            found[at], found[at + 1] = level.data_ptr(), grad.data_ptr()
            at += stride
        return found

    def forward(*features: Tensor) -> tuple[Tensor, tuple[Tensor]]:
        x, table, scratch = features[0], levels(features, features), scratch_memory(workspaces[0])
        losses, sums = x.new_empty(count), x.new_empty(numbers, dtype=wide)
        shape = structs.cocs_shape(dtype, table, count)
        status = run(shape, losses.data_ptr(), sums.data_ptr(), scratch.data_ptr())
        if status:
            raise native.failure("cocs_loss", status)
        return losses, (sums,)

    def backward(grads: Sequence[Tensor | None], tensors: Sequence[Tensor]) -> list[Tensor]:
        (grad,), (*features, sums) = grads, tensors
        assert grad is not None
        grad, scratch = grad.contiguous(), scratch_memory(workspaces[1])
        found = [torch.empty_like(level) for level in features]
        table = levels(features, found)
        shape = structs.cocs_shape(dtype, table, count)
        status = differentiate(shape, grad.data_ptr(), sums.data_ptr(), scratch.data_ptr())
        if status:
            raise native.failure("cocs_loss_backward", status)
        return found

    return registry.Bound(lambda *x: forward(*x)[0], forward, backward, lambda saved: saved)


register("cocs_loss", _forward, _backward, _bind)
