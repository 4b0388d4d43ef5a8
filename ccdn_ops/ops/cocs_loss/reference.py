"""The cross-order cross-semantic loss as the paper says it (eqs. 5 and 6).

`cocs_loss` is literal, P^2 products of B x B: the yardstick for the tests and the baseline of the
benchmarks. The raw operator needs the sums over the batch as well, so its kernels here go by them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ccdn_ops.backends import registry
from ccdn_ops.backends.reference.autograd import gradients
from ccdn_ops.precision import accumulation_dtype, no_autocast

# As in torch.nn.functional.normalize.
SMALLEST_NORM = 1e-12


def cocs_loss(features: Tensor | Sequence[Tensor]) -> Tensor:
    """L of features (B, P, D) -> a scalar, or of several such levels -> (L,), by autograd.

    In the features' dtype, computed in float64 for float64 and in float32 for the others, under
    autocast too. 0 where diag Q is 0, without gradient.
    """
    if not isinstance(features, Tensor):
        return torch.stack([cocs_loss(level) for level in features])
    batch, excitations, _ = features.shape
    with no_autocast(features.device.type):
        f = normalised(features)  # [B, P, D]
        q = [  # eq. 5: the sum of all entries of F_p^T F_p', over B^2
            (f[:, p] @ f[:, other].mT).sum() / max(batch, 1) ** 2
            for p in range(excitations)
            for other in range(excitations)
        ]
        return loss_of_products(torch.stack(q).view(excitations, excitations)).to(features.dtype)


def normalised(features: Tensor) -> Tensor:
    """f / |f| in the wide dtype.

    A vector shorter than 1e-12 is divided by that, and passes no gradient: its direction is noise.
    """
    f = features.to(accumulation_dtype(features.dtype))
    norm = torch.linalg.vector_norm(f.detach(), dim=2, keepdim=True)
    # A second derivative of the norm of 0 is NaN, and would be so behind torch.where, too.
    short = norm < SMALLEST_NORM
    long = torch.where(short, torch.ones_like(f), f)
    unit = long / torch.linalg.vector_norm(long, dim=2, keepdim=True)
    return torch.where(short, f.detach() / SMALLEST_NORM, unit)


def loss_of_products(q: Tensor) -> Tensor:
    """Eq. 6 for Q (P, P): (|Q|^2 - |diag Q|^2) / |diag Q|^2; 0 where diag Q is 0."""
    own = q.diagonal().square().sum()
    cross = (q - torch.diag(q.diagonal())).square().sum()  # no difference of large numbers
    vanishes = own == 0
    loss = cross / torch.where(vanishes, torch.ones_like(own), own)
    return torch.where(vanishes, torch.zeros_like(loss), loss)


def loss_of_sums(s: Tensor) -> Tensor:
    """L for S (P, D), the sum over the batch of the unit vectors.

    Q_pp' sums over all pairs of samples, so it is S S^T / B^2. L does not change when Q is scaled:
    instead of by 1 / B^2, S is scaled to magnitude 1, which neither over- nor underflows.
    """
    largest = s.detach().abs().amax()
    s = s / torch.where(largest > 0, largest, torch.ones_like(largest))
    return loss_of_products(s @ s.mT)


def losses_of_sums(sums: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """(L,) of flat sums, level by level, whose (P, D) are `sizes`."""
    parts = sums.split([p * d for p, d in sizes])
    return torch.stack([loss_of_sums(s.view(z)) for s, z in zip(parts, sizes, strict=True)])


def _forward(features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    sums = torch.cat([normalised(level).sum(0).flatten() for level in features])
    losses = losses_of_sums(sums, [(f.shape[1], f.shape[2]) for f in features])
    return losses.to(features[0].dtype), sums


def _backward(grad_losses: Tensor, features: Sequence[Tensor], sums: Tensor) -> list[Tensor]:
    sizes = [(level.shape[1], level.shape[2]) for level in features]
    wide = grad_losses.to(sums.dtype)
    (by_sums,) = gradients(lambda s: losses_of_sums(s, sizes), [sums], [wide])
    parts = by_sums.split([p * d for p, d in sizes])
    grads = []
    for level, part, size in zip(features, parts, sizes, strict=True):
        (grad,) = gradients(lambda f: normalised(f).sum(0), [level], [part.view(size)])
        grads.append(torch.empty_like(level).copy_(grad))
    return grads


registry.register("cocs_loss", backend="reference", forward=_forward, backward=_backward)
