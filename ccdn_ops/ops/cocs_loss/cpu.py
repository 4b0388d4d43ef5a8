"""cocs_loss on the CPU, through csrc/cpu/ops/cocs_loss.cpp."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ccdn_ops.backends import native, registry
from ccdn_ops.backends.cpu.device import supports
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
    shape = native.cocs_shape(x.dtype, table, len(rows))
    scratch = scratch_memory(module.cocs_loss_workspace_cpu(shape, False))
    native.launch("cocs_loss", module.cocs_loss_forward_cpu, shape, losses, sums, scratch)
    return losses, sums


def _backward(grad_losses: Tensor, features: Sequence[Tensor], sums: Tensor) -> list[Tensor]:
    module = native.require()

    def run(rows: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
        table = level_table(rows, grads)
        shape = native.cocs_shape(rows[0].dtype, table, len(rows))
        scratch = scratch_memory(module.cocs_loss_workspace_cpu(shape, True))
        native.launch(
            "cocs_loss_backward", module.cocs_loss_backward_cpu, shape, grad_losses, sums, scratch
        )

    return gradients_of_rows(features, run)


registry.register(
    "cocs_loss", backend="cpu", forward=_forward, backward=_backward, supports=supports
)
