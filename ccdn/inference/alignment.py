"""Crops of faces that are turned in the picture: turned back, so that the network sees them level.

The roll of a face is the angle, in degrees, by which it is turned clockwise in the picture.
"""

from __future__ import annotations

import numpy as np

from ccdn.data import (
    Layout,
    crop_matrix,
    from_unit,
    invert,
    landmark_box,
    square_box,
    transform_points,
)

TILTED = 12.0  # degrees: a face this far from level in its crop is cropped again


def eye_roll(landmarks: np.ndarray, layout: Layout) -> float:
    """The angle of the line between the eyes of a face (L, 2), clockwise; 0 for a layout whose eyes
    are not known.
    """
    if layout.pupil is None:
        return 0.0
    left, right = (np.mean(landmarks[list(group)], axis=0) for group in layout.pupil)
    return float(np.degrees(np.arctan2(right[1] - left[1], right[0] - left[0])))


def turned(degrees: float) -> float:
    """The same angle from -180 up to 180."""
    return (degrees + 180.0) % 360.0 - 180.0


def rolled_matrix(box: np.ndarray, margin: float, size: int, roll: float) -> np.ndarray:
    """The matrix (2, 3) from the picture to the crop of a box (4,), in which a face with that roll
    is level.
    """
    return crop_matrix(square_box(box, margin), size, rotation=roll)


def box_along(landmarks: np.ndarray, roll: float) -> np.ndarray:
    """A box (4,) to crop a face by, once its roll is known: its size is that of the smallest box
    around the landmarks (L, 2) that is turned by the roll, its centre that box's centre.
    """
    angle = np.radians(roll)
    back = np.array([[np.cos(angle), np.sin(angle), 0.0], [-np.sin(angle), np.cos(angle), 0.0]])
    level = landmark_box(transform_points(back, np.asarray(landmarks, np.float64)))
    middle = back[:, :2].T @ ((level[:2] + level[2:]) / 2)
    half = (level[2:] - level[:2]) / 2
    return np.concatenate([middle - half, middle + half])


def crop_to_image(landmarks: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Landmarks (..., 2) in [0, 1] of the crop to pixels of the picture, (..., 2) float64.

    matrix: (2, 3), picture pixels to crop pixels. A crop pixel x lies at (x + 0.5) / size.
    """
    pixels = from_unit(np.asarray(landmarks, np.float64), size)
    return transform_points(invert(matrix), pixels)
