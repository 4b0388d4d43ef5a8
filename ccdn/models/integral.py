"""Integral regression: landmarks as the expected positions under maps of their own."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Standard deviation of the prior about the mean shape, as a share of the crop: wide enough for
# rotated or shifted faces, and only a starting point that training overrides.
PRIOR_SPREAD = 0.2
# Minimum distance of the prior's mean from the crop's border, as a share of the crop: any nearer,
# hardly any other position would have a chance.
BORDER = 0.08


class IntegralHead(nn.Module):
    """Soft-argmax over one map for each landmark (integral regression, Sun et al., ECCV 2018).

    maps (B, P, D, H, W) -> landmarks (B, L, 2), x then y, in [0, 1] of the crop: a 1x1 convolution
    of the rectified maps gives the logits of each landmark's position, to which the logarithm of a
    Gaussian about the mean shape is added; the landmark is the mean position under their softmax.
    Positions are the middles of the cells. The convolution has no bias, which the softmax would
    not see, and begins at zero, so that every face begins at the mean shape.
    """

    def __init__(self, channels: int, points: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(points, channels, 1, 1))
        # Of the Gaussian; see `set_mean_shape`. Two dimensions for each landmark.
        self.register_buffer("centre", torch.full((points, 2), 0.5))
        self.centre: Tensor

    @torch.no_grad()
    def set_mean_shape(self, landmarks: Tensor, height: int, width: int) -> None:
        """Centre the prior so that its mean on a grid of (height, width) cells is a shape (L, 2).

        The mean of a Gaussian that is cut off at the border differs from its centre. Means nearer
        to the border than BORDER, or than one cell, are moved to that distance.
        """
        for axis, cells in ((0, width), (1, height)):
            self.centre[:, axis] = _centre(landmarks[:, axis], cells).to(self.centre)

    def forward(self, maps: Tensor) -> Tensor:
        logits = self.logits(maps)
        height, width = logits.shape[2:]
        chances = (logits + self.prior(height, width)).flatten(2).softmax(2)
        return chances @ positions(height, width, chances)

    def logits(self, maps: Tensor) -> Tensor:
        """What the maps say of each landmark's position, (B, L, H, W), without the prior."""
        return F.conv2d(F.relu(maps.flatten(1, 2)), self.weight)

    def shifts(self, logits: Tensor, nodes: int = 64) -> Tensor:
        """How much each position moves a landmark for each unit of its logit, (B, L, 2, H, W).

        logits: (B, L, H, W). Summed over the positions, logits * shifts is how far they move the
        landmark from the prior's mean: shifts is the derivative of the landmark by a logit,
        averaged over all fractions of the logits from none to all (integrated gradients,
        Sundararajan et al., ICML 2017), by Gauss-Legendre quadrature with `nodes` of them.
        """
        height, width = logits.shape[2:]
        prior = self.prior(height, width)
        places = positions(height, width, logits)  # [H W, 2]
        found = logits.new_zeros((*logits.shape[:2], 2, height * width))
        for node, weight in zip(*np.polynomial.legendre.leggauss(nodes), strict=True):
            chances = (float(node + 1) / 2 * logits + prior).flatten(2).softmax(2)
            away = places.T - (chances @ places).unsqueeze(3)  # [B, L, 2, H W]
            found += float(weight) / 2 * chances.unsqueeze(2) * away
        return found.unflatten(3, (height, width))

    def prior(self, height: int, width: int) -> Tensor:
        """The logarithm of the prior but for a constant, (L, H, W)."""
        x = _log_gaussian(self.centre[:, :1], width)
        y = _log_gaussian(self.centre[:, 1:], height)
        return y.unsqueeze(2) + x.unsqueeze(1)


def positions(height: int, width: int, like: Tensor) -> Tensor:
    """The middles of the cells, (height * width, 2): x then y in [0, 1], row after row."""
    x = _middles(width, like).expand(height, width)
    y = _middles(height, like).unsqueeze(1).expand(height, width)
    return torch.stack((x, y), 2).flatten(0, 1)


def _middles(cells: int, like: Tensor) -> Tensor:
    return (torch.arange(cells, device=like.device).to(like.dtype) + 0.5) / cells


def _log_gaussian(centre: Tensor, cells: int) -> Tensor:
    """(L, 1) to (L, cells)."""
    return ((_middles(cells, centre) - centre) / PRIOR_SPREAD).square() * -0.5


def _centre(mean: Tensor, cells: int) -> Tensor:
    """Centres (L,) of Gaussians that have the given means on a grid, by Newton's method.

    The mean's derivative by the centre is the variance over PRIOR_SPREAD^2, so it only rises.
    """
    border = min(max(BORDER, 1 / cells), 0.5)
    wanted = mean.double().clamp(border, 1 - border)
    middles = _middles(cells, wanted)
    centre = wanted.clone()
    for _ in range(50):
        chances = _log_gaussian(centre.unsqueeze(1), cells).softmax(1)
        found = chances @ middles
        variance = (chances * (middles - found.unsqueeze(1)).square()).sum(1)
        step = (wanted - found) * PRIOR_SPREAD**2 / variance.clamp_min(1e-12)
        centre += step.clamp(-PRIOR_SPREAD, PRIOR_SPREAD)
    return centre
