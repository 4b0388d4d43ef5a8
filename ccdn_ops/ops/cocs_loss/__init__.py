"""cocs_loss: the regulariser that makes the excitations of a level learn different things."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ccdn_ops.ops import raw
from ccdn_ops.ops.autograd import differentiable
from ccdn_ops.ops.checks import check_device, check_tensor
from ccdn_ops.ops.cocs_loss import reference
from ccdn_ops.ops.cocs_loss.spec import OPERATOR
from ccdn_ops.precision import no_autocast

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def cocs_loss(features: Tensor | Sequence[Tensor], group: ProcessGroup | None = None) -> Tensor:
    """The cross-order cross-semantic loss (eqs. 5 and 6), in O(B P D).

    features (B, P, D), one vector per sample and excitation, not yet normalised -> a scalar. A
    sequence of L such tensors, one per level, each with its own D and all of one dtype -> (L,), one
    loss per level in that dtype. 16-bit features are computed in float32.

    Without a group the loss covers the samples of this process. With a process group it covers the
    samples of all processes in the group, which costs one all-reduce of P x D numbers per level.
    The gradient is then W (the group's size) times this process's share: DistributedDataParallel
    averages gradients over the processes, and the average equals the gradient that one process
    would compute from all samples.

    P = 1 gives 0 and zero gradient, and so do features that are all zero; a zero vector among
    others contributes zero. Every process of a group must pass the same shapes, except for B.

    Differentiable any number of times and in forward mode (docs/limits.md); with a process group
    once, in reverse mode: NotImplementedError for more.

    Raises TypeError for a dtype that is not floating, and ValueError for any other rank, an empty
    sequence, levels of different dtypes or devices, and P or D of 0.
    """
    single = isinstance(features, Tensor)
    given: Any = (features,) if single else features
    if group is None and type(given) in (tuple, list):
        losses = _cocs_loss.direct(tuple(given), ())
        if losses is not None:
            return losses.view(()) if single else losses
    levels = [features] if isinstance(features, Tensor) else _listed(features)
    _check(levels)
    (losses,) = _cocs_loss(*levels, group)
    return losses.view(()) if single else losses


def _listed(features: Any) -> list[Tensor]:
    if not isinstance(features, Iterable):
        raise TypeError(
            f"ccdn_ops.cocs_loss: features is a {type(features).__name__}; "
            "expected a torch.Tensor or a sequence of them"
        )
    return list(features)


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


def _forward(*arguments: Any) -> tuple[Tensor, Tensor]:
    *features, group = arguments
    losses, sums = _raw_forward(features)
    if group is not None:
        import torch.distributed as dist

        dist.all_reduce(sums, group=group)
        sizes = [(level.shape[1], level.shape[2]) for level in features]
        with no_autocast(sums.device.type):
            losses = reference.losses_of_sums(sums.double(), sizes).to(losses.dtype)
    return losses, sums


def _backward(grad_losses: Tensor, *arguments: Any) -> list[Tensor]:
    """Needs no communication: every process receives the same grad_losses, because each computes
    the same losses from the same sums."""
    *features, sums, group = arguments
    if group is not None:
        grad_losses = grad_losses * group.size()
    return _raw_backward(grad_losses, features, sums)


def _traced(*arguments: Any) -> Tensor:
    *features, group = arguments
    if group is not None:
        raise NotImplementedError(
            "ccdn_ops.cocs_loss: second derivatives, forward mode and torch.jit.trace do not "
            "work across processes; found a process group, expected None"
        )
    return reference.cocs_loss(features)


_raw_forward, _raw_backward = raw.packet("cocs_loss"), raw.packet("cocs_loss_backward")
_cocs_loss = differentiable(OPERATOR, extra=1, forward=_forward, backward=_backward, traced=_traced)
