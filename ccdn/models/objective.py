"""The training objective of eq. 9."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

import ccdn_ops

from .network import Output

LEVELS = ("t", "t1", "g")


class Objective(NamedTuple):
    """total = landmarks + sum of gamma * cocs; scalars; cocs (3,), T, T-1, G, or (0,)."""

    total: Tensor
    landmarks: Tensor
    cocs: Tensor


def objective(output: Output, target: Tensor, gammas: Sequence[float]) -> Objective:
    """Eq. 9: squared error of the landmarks plus the weighted COCS losses.

    target: (B, L, 2) in [0, 1] of the crop; the squared error is summed over points and averaged
        over the batch, so that the weights gamma do not depend on the batch size.
    gammas: weights of L(Q_T), L(Q_{T-1}), L(Q_G); the paper's are 0.025, 0.01, 0.05.
    """
    if output.landmarks.shape != target.shape:
        raise ValueError(
            f"target must be {tuple(output.landmarks.shape)}, found {tuple(target.shape)}"
        )
    error = (output.landmarks - target).square().sum((1, 2)).mean()
    if not output.features:
        return Objective(error, error, error.new_zeros(0))
    if len(gammas) != len(output.features):
        raise ValueError(f"expected {len(output.features)} weights gamma, found {len(gammas)}")
    cocs = ccdn_ops.cocs_loss(output.features)
    return Objective(error + cocs @ cocs.new_tensor(list(gammas)), error, cocs)
