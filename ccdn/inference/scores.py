"""How far to trust landmarks: errors that a network shows by itself, and the score they give."""

from __future__ import annotations

import numpy as np

from ccdn.inference.network import Curve, Seen

# Of the errors, `mirror_errors` and `spread_errors`. `python benchmarks/calibrate_scores.py`
# computes them with the bundled weights on generated pictures: 95 of 100 boxes without a face score
# less than 0.5, 99 of 100 faces at least 0.9.
MIRROR = Curve(0.0597, 2.52)
SPREAD = Curve(0.0419, 3.09)


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
