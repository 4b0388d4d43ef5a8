"""cocs_loss through csrc/cuda/cocs_loss.cu."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ccdn_ops.backends import native, registry, structs
from ccdn_ops.backends.cuda.device import supports
from ccdn_ops.backends.levels import gradients_of_rows, in_rows, level_table
from ccdn_ops.precision import accumulation_dtype


def forward(features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The losses and the sums over the batch; see ccdn_ops/ops/cocs_loss/spec.py."""
    module, x = native.require(), features[0]
    rows = [in_rows(level) for level in features]
    losses = x.new_empty(len(rows))
    count = sum(r.shape[1] * r.shape[2] for r in rows)
    sums = x.new_empty(count, dtype=accumulation_dtype(x.dtype))
    table = level_table(rows)
    shape = structs.cocs_shape(x.dtype, table, len(rows))
    scratch = native.workspace(module.cocs_loss_workspace_cuda(shape, False), x.device)
    tensors = losses, sums, scratch
    native.launch("cocs_loss", module.cocs_loss_forward_cuda, shape, *tensors, native.stream(x))
    return losses, sums


def backward(grad_losses: Tensor, features: Sequence[Tensor], sums: Tensor) -> list[Tensor]:
    """The gradients of the levels."""
    module, x = native.require(), features[0]

    def run(rows: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
        table = level_table(rows, grads)
        shape = structs.cocs_shape(x.dtype, table, len(rows))
        scratch = native.workspace(module.cocs_loss_workspace_cuda(shape, True), x.device)
        native.launch(
            "cocs_loss_backward",
            module.cocs_loss_backward_cuda,
            shape,
            *(grad_losses, sums, scratch),
            native.stream(x),
        )

    return gradients_of_rows(features, run)


registry.register(
    "cocs_loss", backend="cuda", forward=forward, backward=backward, supports=supports
)
