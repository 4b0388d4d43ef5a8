"""The training objective of eq. 9."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

import ccdn_ops
from ccdn.config import LossConfig

from .network import Output

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

LEVELS = ("t", "t1", "g")


class Objective(NamedTuple):
    """total = landmarks + sum of gamma * cocs, and the error of each supervised hourglass.

    landmarks: the error of the network's output, a scalar. cocs: (3,), T, T-1, G, or (0,).
    """

    total: Tensor
    landmarks: Tensor
    cocs: Tensor


def objective(
    output: Output,
    target: Tensor,
    gammas: Sequence[float],
    loss: LossConfig | None = None,
    input_size: int = 1,
    group: ProcessGroup | None = None,
) -> Objective:
    """Eq. 9: squared error of the landmarks plus the weighted COCS losses.

    target: (B, L, 2) in [0, 1] of the crop.
    gammas: weights of L(Q_T), L(Q_{T-1}), L(Q_G); the paper's are 0.025, 0.01, 0.05.
    loss: unit and sums of the squared error; by default of coordinates in [0, 1], summed over
        points and averaged over the batch, so that the weights gamma depend on neither the crop
        nor the batch size.
    input_size: side of the crop, for coordinates in pixels.
    group: see `ccdn_ops.cocs_loss`.
    """
    if output.landmarks.shape != target.shape:
        raise ValueError(
            f"target must be {tuple(output.landmarks.shape)}, found {tuple(target.shape)}"
        )
    loss = loss or LossConfig()
    error = _error(output.landmarks, target, loss, input_size)
    total = error
    for landmarks in output.intermediate:
        total = total + _error(landmarks, target, loss, input_size)
    if not output.features:
        return Objective(total, error, error.new_zeros(0))
    if len(gammas) != len(output.features):
        raise ValueError(f"expected {len(output.features)} weights gamma, found {len(gammas)}")
    cocs = ccdn_ops.cocs_loss(output.features, group)
    return Objective(total + cocs @ cocs.new_tensor(list(gammas)), error, cocs)


def _error(landmarks: Tensor, target: Tensor, loss: LossConfig, input_size: int) -> Tensor:
    difference = landmarks - target
    if loss.coordinates == "pixels":
        difference = difference * input_size
    squares = difference.square().sum(2)
    of_faces = squares.sum(1) if loss.over_points == "sum" else squares.mean(1)
    return of_faces.mean() if loss.over_batch == "mean" else of_faces.sum()
