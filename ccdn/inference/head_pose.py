"""The direction of a head from its landmarks: PnP with the face generator's mean head."""

from __future__ import annotations

import functools
from dataclasses import fields
from typing import NamedTuple

import numpy as np

from ccdn.data import layout
from ccdn.data.images import cv2
from ccdn.inference.alignment import eye_roll
from ccdn.synthetic_faces.anatomy import Anatomy, in_layout
from ccdn.synthetic_faces.camera import look_at
from ccdn.synthetic_faces.head import Head
from ccdn.synthetic_faces.parameters import Expression, Pose, RandomStream, sample_identity

# Points that lie fixed on the head, by number of points: brows, nose, eyes and the mouth's corners.
# The jaw's points are where the outline is seen, so they slide over the head as it turns.
_RIGID = {
    68: [*range(17, 48), 48, 54],
    98: [*range(33, 76), 76, 82],
}
_DISTANCE = 10.0  # of the camera, in head units (half a face's width), as in most portraits


class HeadPose(NamedTuple):
    """Degrees. Positive yaw turns the nose to the right of the picture, positive pitch lifts it,
    positive roll turns the head clockwise.
    """

    yaw: float
    pitch: float
    roll: float


def head_pose(landmarks: np.ndarray) -> HeadPose:
    """The pose of a head with these landmarks, (68, 2) or (98, 2) in pixels.

    The camera is taken to look straight at the face from ten half widths of it: its focal length is
    not known. So these are the angles between face and line of sight. Raises ValueError for other
    numbers of points and for landmarks that are not finite.
    """
    points = np.asarray(landmarks, np.float64)
    if points.shape not in ((68, 2), (98, 2)) or not np.isfinite(points).all():
        raise ValueError(f"expected finite landmarks (68, 2) or (98, 2), found {points.shape}")
    chosen = _RIGID[len(points)]
    model = _mean_head(len(points))[chosen]
    seen = points[chosen]
    extent = np.ptp(model[:, :2], axis=0).max()
    focal = _DISTANCE * max(np.ptp(seen, axis=0).max(), 1e-6) / extent
    camera = np.array([[focal, 0, seen[:, 0].mean()], [0, focal, seen[:, 1].mean()], [0, 0, 1.0]])
    _, turn, _ = cv2.solvePnP(
        model * (1, 1, -1),  # OpenCV's z points away from the camera
        seen,
        camera,
        None,
        np.array([0.0, 0.0, np.radians(eye_roll(points, layout(len(points))))]),  # to start from
        np.array([0.0, 0.0, _DISTANCE]),
        True,
        cv2.SOLVEPNP_ITERATIVE,
    )
    mirror = np.diag([1.0, 1.0, -1.0])
    rotation = mirror @ cv2.Rodrigues(turn)[0] @ mirror
    yaw = np.arctan2(-rotation[2, 0], np.hypot(rotation[0, 0], rotation[1, 0]))
    pitch = np.arctan2(rotation[2, 1], rotation[2, 2])
    roll = np.arctan2(rotation[1, 0], rotation[0, 0])
    return HeadPose(*(float(np.degrees(angle)) for angle in (yaw, pitch, roll)))


class _Means(RandomStream):
    """Random numbers that are all at their means."""

    def normal(self, mean: float, deviation: float) -> float:
        return mean

    def uniform(self, low: float, high: float) -> float:
        return (low + high) / 2


@functools.lru_cache(maxsize=2)
def _mean_head(count: int) -> np.ndarray:
    """The landmarks (count, 3) of the generator's mean head at rest, in half widths of the face."""
    identity = sample_identity(_Means(0, 0, 0))
    rest = Expression(*(0.0 for _ in fields(Expression)))
    front = Pose(0.0, 0.0, 0.0, _DISTANCE, 0.5, 0.0, 0.0)
    view = look_at(Head(Anatomy(identity, rest)), front, 256)
    return np.array(in_layout(view.points, count), np.float64)
