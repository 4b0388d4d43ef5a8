"""Maps the head frame to the picture, with the landmarks as seen there."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ccdn.synthetic_faces.anatomy import in_layout
from ccdn.synthetic_faces.head import EVENLY, Head
from ccdn.synthetic_faces.parameters import Pose


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """The 3 x 3 matrix that nods, then turns, then tilts a head; degrees, signs as in `Pose`."""
    cy, cp, cr = (np.cos(np.deg2rad(a)) for a in (yaw, pitch, roll))
    sy, sp, sr = (np.sin(np.deg2rad(a)) for a in (yaw, pitch, roll))
    nod = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    tilt = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return tilt @ turn @ nod


@dataclass(frozen=True)
class Camera:
    """Perspective projection: pixels = centre + scale * (x, y) * distance / (distance - z)."""

    rotation: np.ndarray
    distance: float
    scale: float  # pixels per head unit at z = 0
    centre: np.ndarray  # where the origin of the head falls, pixels

    def turned(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 3) of the head frame in the camera's frame."""
        # Not a matrix product: BLAS would wake threads, whose number may change the rounding.
        flat = np.ascontiguousarray(points).reshape(-1, 1, 3)
        return cv2.transform(flat, self.rotation).reshape(points.shape)

    def project(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 3) of the head frame as pixels and depth towards the camera (..., 3)."""
        seen = self.turned(points)
        flat = seen[..., :2]
        flat *= self.scale * self.distance / (self.distance - seen[..., 2:])
        flat += self.centre
        return seen


@dataclass(frozen=True)
class View:
    """A head before a camera, with all its landmarks."""

    head: Head
    camera: Camera
    points: np.ndarray  # (106, 3) in the head frame: `anatomy.ALL_POINTS`
    pixels: np.ndarray  # (106, 3) pixels and depth

    def landmarks(self, count: int) -> np.ndarray:
        """The landmarks of a layout, (count, 2) float32, pixels; count is 19, 29, 68 or 98."""
        return np.ascontiguousarray(in_layout(self.pixels, count)[:, :2], dtype=np.float32)


_CHIN_STEP = 0.92 / 16
# Shares of one side's outline from the ear: the last two steps, of the chin, are shorter.
_FROM_EAR = np.linspace(0, 1, 17)
_FROM_EAR[-3:-1] = 1 - np.array([2, 1]) * _CHIN_STEP
_FROM_EAR[:-2] = np.linspace(0, _FROM_EAR[-3], 15)


def _outline(head: Head, camera: Camera, roll: float) -> np.ndarray:
    """The jaw's points (33, 3) on the outline that this camera sees, evenly spaced between chin
    and ears as an annotator puts them, a little closer next to the chin.
    """
    points = _farthest_out(*head.jaw_paths, camera, roll)
    flat = camera.project(points)[:, :2]
    along = np.zeros(len(flat))
    np.cumsum(np.hypot(*(flat[1:] - flat[:-1]).T), out=along[1:])
    chin = len(flat) // 2
    left, right = along[: chin + 1], along[chin:]
    wanted = np.concatenate(
        [
            left[0] + (left[-1] - left[0]) * _FROM_EAR,
            right[-1] + (right[0] - right[-1]) * _FROM_EAR[-2::-1],
        ]
    )
    return _farthest_out(*head.walks_from(np.interp(wanted, along, EVENLY)), camera, roll)


def _farthest_out(paths: np.ndarray, normal: np.ndarray, camera: Camera, roll: float) -> np.ndarray:
    """The points (33, 3) of walks (33, steps, 3) that lie farthest out in the picture."""
    tilt = rotation(0.0, 0.0, roll)[:2, :2]
    flat = camera.project(paths)[..., :2]
    across, down = (normal @ tilt.T).T[..., None]
    outward = flat[..., 0] * across + flat[..., 1] * down
    # A tie, as where the walk starts on the outline, is the jaw itself.
    best = np.argmax(outward - 1e-9 * np.arange(flat.shape[1]), axis=1)
    return paths[np.arange(len(paths)), best]


def look_at(head: Head, pose: Pose, size: int) -> View:
    """Place a head before the camera so that its landmarks fill `pose.extent` of the picture."""
    turn = rotation(pose.yaw, pose.pitch, pose.roll)
    trial = Camera(turn, pose.distance, 1.0, np.zeros(2))
    points = np.concatenate([_outline(head, trial, pose.roll), head.features])
    flat = trial.project(points)[:, :2]
    low, high = flat.min(axis=0), flat.max(axis=0)
    scale = size * pose.extent / float((high - low).max())
    middle = (size - 1) / 2 + size * np.array([pose.offset_x, pose.offset_y])
    camera = Camera(turn, pose.distance, scale, middle - scale * (low + high) / 2)
    return View(head, camera, points, camera.project(points))
