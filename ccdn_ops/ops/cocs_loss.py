"""cocs_loss: the regulariser that makes the excitations of a level learn different things."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from ccdn_ops.backends import reference
from ccdn_ops.backends.native import no_autocast
from ccdn_ops.ops.checks import check_device, check_tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def cocs_loss(features: Tensor | Sequence[Tensor], group: ProcessGroup | None = None) -> Tensor:
    """The cross-order cross-semantic loss (eqs. 5 and 6), in O(B P D).

    features (B, P, D), one vector for each sample and excitation, not yet normalised -> a scalar;
    a sequence of such tensors, the levels, each with its own D -> (L,), one loss a level, all with
    one dtype, which is the result's. Computed in float32 for 16-bit features.

    Without a group the loss is that of this process's samples. With a process group it is that of
    all its processes' samples, by one all-reduce of P x D numbers a level, and the gradient is W
    (the group's size) times this process's share of it: DistributedDataParallel averages gradients
    over the processes, so that the average is the gradient of one process with all samples.

    P = 1 gives 0 and so do features that are all zero, both without gradient; a zero vector among
    others counts as zero. Every process of a group must call with the same shapes but for B.

    Raises TypeError for a dtype that is not floating, ValueError for another rank, no level, levels
    of different dtypes or devices, and P or D of 0.
    """
    single = isinstance(features, Tensor)
    levels = [features] if isinstance(features, Tensor) else list(features)
    _check(levels)
    with no_autocast(levels[0].device.type):
        sums = [reference.unit_sum(level) for level in levels]
        if group is not None:
            flat = _GlobalSum.apply(torch.cat([s.flatten() for s in sums]), group)
            parts = flat.split([s.numel() for s in sums])
            sums = [part.view_as(s) for part, s in zip(parts, sums, strict=True)]
        losses = [reference.loss_of_sums(s).to(levels[0].dtype) for s in sums]
    return losses[0] if single else torch.stack(losses)


def _check(levels: list[Tensor]) -> None:
    operator = "cocs_loss"
    if not levels:
        raise ValueError(f"ccdn_ops.{operator}: features is empty; expected at least one level")
    for number, level in enumerate(levels):
        check_tensor(operator, f"level {number} of features", level)
        if level.dim() != 3 or 0 in level.shape[1:]:
            raise ValueError(
                f"ccdn_ops.{operator}: level {number} of features has shape "
                f"{tuple(level.shape)}; expected (B, P, D) with P, D >= 1"
            )
        if level.dtype != levels[0].dtype:
            raise ValueError(
                f"ccdn_ops.{operator}: level {number} of features has dtype {level.dtype}; "
                f"expected level 0's, {levels[0].dtype}"
            )
    check_device(operator, **{f"level {i}": level for i, level in enumerate(levels)})


class _GlobalSum(torch.autograd.Function):
    """The sum over the processes; its gradient is W times what arrives, without communication.

    What arrives is the same on every process, because each computes the same loss of the same sums.
    """

    @staticmethod
    def forward(local: Tensor, group: ProcessGroup) -> Tensor:
        import torch.distributed as dist

        total = local.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.size = inputs[1].size()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.size, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> NoReturn:
        raise NotImplementedError("ccdn_ops.cocs_loss with a group has no forward-mode derivative")
