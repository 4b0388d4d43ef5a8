"""cocs_loss on the CPU, through csrc/cpu/ops/cocs_loss.cpp."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ccdn_ops.backends import native, registry, structs
from ccdn_ops.backends.cpu import binding
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
    grads = [torch.empty_like(x, device="meta") for x in features]
    if any(in_rows(x) is not x for x in (*features, *grads)):
        return None
    x, workspace = features[0], native.require().cocs_loss_workspace_cpu
    # Of every call the table has the sizes and strides; its addresses are those of this one.
    table = level_table(features, grads)
    numbers = sum(level.shape[1] * level.shape[2] for level in features)
    return binding.bound(
        "cocs_loss",
        features,
        [x.new_empty(len(features), device="meta")],
        binding.Saving(structs.cocs_shape(x.dtype, table, len(features)), [(numbers,)], table),
        gradients=grads,
        # csrc/bindings.cpp puts a table with the addresses of the call in front.
        workspace=lambda shape, backward: len(table) * table.itemsize + workspace(shape, backward),
    )


register("cocs_loss", _forward, _backward, _bind)
