"""How far to trust landmarks: errors that a network shows by itself, and the score they give."""

from __future__ import annotations

from typing import Any, overload

import numpy as np

from ccdn.inference.network import Curve, Seen

# Of the errors, `mirror_errors` and `spread_errors`. `python benchmarks/calibrate_scores.py`
# computes all three with the bundled weights, on generated pictures alone.
MIRROR = Curve(0.0649, 7.08)
SPREAD = Curve(0.0608, 8.44)
DETECTION = 7.43


@overload
def combined(detection: float, landmark: float, weight: float = DETECTION) -> float: ...
@overload
def combined(
    detection: np.ndarray, landmark: np.ndarray, weight: float = DETECTION
) -> np.ndarray: ...
def combined(detection: Any, landmark: Any, weight: float = DETECTION) -> Any:
    """One score from the detector's and the landmarks', numbers or arrays of one shape.

    It is the landmarks' score, whose odds are lower by exp(weight * (1 - detection)): a detector's
    score of 1, which those without scores give, changes nothing.
    """
    return landmark / (landmark + (1 - landmark) * np.exp(weight * (1 - detection)))


def mirror_errors(seen: Seen) -> np.ndarray:
    """Of each crop, (B,): the mean distance between the landmarks and those of its mirror image, in
    longer sides of the box around the landmarks. Raises ValueError if mirror images were not seen.
    """
    if seen.mirrored is None:
        raise ValueError("expected landmarks of mirrored crops, found none")
    apart = (seen.landmarks - seen.mirrored).astype(np.float64)
    return np.asarray(np.hypot(apart[..., 0], apart[..., 1]).mean(1) / _extents(seen))


def spread_errors(seen: Seen) -> np.ndarray:
    """Of each crop, (B,): the mean spread of its points, in longer sides of the box around the
    landmarks. Raises ValueError for a network without spread.
    """
    if seen.spread is None:
        raise ValueError("expected a network with spread, found one without")
    return np.asarray(seen.spread.mean(1, dtype=np.float64) / _extents(seen))


def _extents(seen: Seen) -> np.ndarray:
    return np.ptp(seen.landmarks.astype(np.float64), axis=1).max(1).clip(1e-6)
