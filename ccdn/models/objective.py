"""The training objective of eq. 9."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

import ccdn_ops
from ccdn.config import LossConfig
from ccdn.models.network import LEAST_SPREAD, Output

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
    parts: int = 1,
) -> Objective:
    """Eq. 9: the error of the landmarks, squared in the paper, plus the weighted COCS losses.

    Args:
        output: what the network gave for the batch.
        target: (B, L, 2) in [0, 1] of the crop.
        gammas: weights of L(Q_T), L(Q_{T-1}), L(Q_G); the paper's are 0.025, 0.01, 0.05.
        loss: kind, unit and sums of the error; by default squares of coordinates in [0, 1], summed
            over points and averaged over the batch, so that the weights gamma depend on neither
            the crop nor the batch size.
        input_size: side of the crop, for coordinates in pixels.
        group: see `ccdn_ops.cocs_loss`.
        parts: of how many equal parts of the batch, on processes or one after the other, the
            objectives will be averaged: a sum over the batch is then parts times the part's, so
            that the average is the sum over the whole.

    Raises ValueError for a target of another shape and a number of gammas that is not the levels'.
    """
    if output.landmarks.shape != target.shape:
        raise ValueError(
            f"target must be {tuple(output.landmarks.shape)}, found {tuple(target.shape)}"
        )
    loss = loss or LossConfig()
    error = _error(output.landmarks, target, loss, input_size, parts, output.spread)
    total = error
    for landmarks in output.intermediate:
        total = total + _error(landmarks, target, loss, input_size, parts)
    if not output.features:
        return Objective(total, error, error.new_zeros(0))
    if len(gammas) != len(output.features):
        raise ValueError(f"expected {len(output.features)} weights gamma, found {len(gammas)}")
    # Of 16-bit features too: the gradient of a scaled loss does not fit into float16 here, and
    # bfloat16 would round the weights gamma.
    features = [
        one.float() if one.dtype in (torch.float16, torch.bfloat16) else one
        for one in output.features
    ]
    with torch.autocast(features[0].device.type, enabled=False):
        cocs = ccdn_ops.cocs_loss(features, group)
        return Objective(total + cocs @ cocs.new_tensor(list(gammas)), error, cocs)


def _error(
    landmarks: Tensor,
    target: Tensor,
    loss: LossConfig,
    input_size: int,
    parts: int,
    spread: Tensor | None = None,
) -> Tensor:
    if loss.kind == "laplace":
        if spread is None:
            raise ValueError("loss kind laplace: expected landmarks with a spread, found none")
        size = (landmarks - target).abs().sum(2)
        # Over the least spread, so that the sum is not negative.
        errors = size / spread + 2 * (spread / LEAST_SPREAD).log()
    else:
        errors = _coordinate_errors(landmarks - target, loss, input_size).sum(2)
    of_faces = errors.sum(1) if loss.over_points == "sum" else errors.mean(1)
    return of_faces.mean() if loss.over_batch == "mean" else of_faces.sum() * parts


def _coordinate_errors(difference: Tensor, loss: LossConfig, input_size: int) -> Tensor:
    """The error of each x and y, in the unit that `loss` names; a width in pixels goes with it."""
    unit = 1.0
    if loss.coordinates == "pixels":
        difference = difference * input_size
    else:
        unit = 1.0 / input_size
    if loss.kind == "l2":
        return difference.square()
    if loss.kind == "smooth_l1":
        zero = difference.new_zeros(())
        width = loss.smooth_width * unit
        return F.smooth_l1_loss(
            difference, zero.expand_as(difference), reduction="none", beta=width
        )
    width, curvature = loss.wing_width * unit, loss.wing_curvature * unit
    size = difference.abs()
    near = width * torch.log1p(size / curvature)
    far = size - (width - width * math.log1p(width / curvature))
    return torch.where(size < width, near, far)
