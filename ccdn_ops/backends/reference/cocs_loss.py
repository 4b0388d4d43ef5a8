"""The cross-order cross-semantic loss in plain PyTorch (eqs. 5 and 6)."""

from __future__ import annotations

import torch
from torch import Tensor

from ccdn_ops.backends.native import accumulation_dtype

# As in torch.nn.functional.normalize.
SMALLEST_NORM = 1e-12


def unit_sum(features: Tensor) -> Tensor:
    """S (P, D) of features (B, P, D): the sum over the batch of f / |f|, in the wide dtype.

    A vector shorter than 1e-12 is divided by that, and passes no gradient: its direction is noise.
    """
    f = features.to(accumulation_dtype(features.dtype))
    norm = torch.linalg.vector_norm(f, dim=2, keepdim=True)
    unit = f / norm.clamp_min(SMALLEST_NORM)
    return torch.where(norm < SMALLEST_NORM, unit.detach(), unit).sum(0)


def loss_of_sums(s: Tensor) -> Tensor:
    """L(Q) of eq. 6 for S (P, D), with Q proportional to S S^T; 0 where diag Q is 0.

    Q_pp' sums over all pairs of samples, so it is S S^T / B^2. L does not change when Q is scaled:
    instead of 1 / B^2, S is scaled to magnitude 1, which neither over- nor underflows.
    """
    largest = s.detach().abs().amax()
    s = s / torch.where(largest > 0, largest, torch.ones_like(largest))
    q = s @ s.mT
    diagonal = q.diagonal()
    own = diagonal.square().sum()
    cross = (q - torch.diag(diagonal)).square().sum()
    vanishes = own == 0
    loss = cross / torch.where(vanishes, torch.ones_like(own), own)
    return torch.where(vanishes, torch.zeros_like(loss), loss)
