"""Smooth shapes in pictures: polygons and tubes whose corners lie between pixels; colours."""

from __future__ import annotations

import numpy as np

from ccdn.data.images import cv2

Colour = tuple[float, float, float]

SHIFT = 4  # OpenCV draws in sixteenths of a pixel


def shade(colour: Colour, factor: float) -> Colour:
    """A colour made darker or lighter."""
    r, g, b = colour
    return (min(255.0, r * factor), min(255.0, g * factor), min(255.0, b * factor))


def in_sixteenths(points: np.ndarray) -> np.ndarray:
    """Pixels as OpenCV's drawing takes them, int32: sixteenths, and none too far out to hold."""
    near = np.minimum(np.maximum(points, -4000.0), 4000.0)
    near *= 1 << SHIFT
    return np.rint(near).astype(np.int32)


def polygon(picture: np.ndarray, points: np.ndarray, colour: tuple[float, ...]) -> None:
    """Fill a polygon given in pixels, its edge smooth."""
    cv2.fillPoly(picture, [in_sixteenths(points)], colour, cv2.LINE_AA, SHIFT)


def tube(
    picture: np.ndarray, points: np.ndarray, radii: np.ndarray, colour: tuple[float, ...]
) -> None:
    """Fill a bent tube: a circle about each of the points (n, 2), and what lies between them."""
    centres = in_sixteenths(points)
    for centre, radius in zip(centres.tolist(), radii.tolist(), strict=True):
        whole = max(1, round(radius * (1 << SHIFT)))
        cv2.circle(picture, centre, whole, colour, cv2.FILLED, cv2.LINE_AA, SHIFT)
    along = points[1:] - points[:-1]
    normal = np.stack([-along[:, 1], along[:, 0]], axis=1)
    normal /= np.maximum(np.hypot(normal[:, 0], normal[:, 1]), 1e-6)[:, None]
    first, last = normal * radii[:-1, None], normal * radii[1:, None]
    quads = np.stack(
        [points[:-1] + first, points[1:] + last, points[1:] - last, points[:-1] - first], 1
    )
    for quad in in_sixteenths(quads):
        cv2.fillConvexPoly(picture, quad, colour, cv2.LINE_AA, SHIFT)


def smooth(points: np.ndarray, rounds: int = 2) -> np.ndarray:
    """A closed polygon with its corners cut (Chaikin), `rounds` times."""
    for _ in range(rounds):
        step = 0.25 * np.concatenate([points[1:] - points[:-1], points[:1] - points[-1:]])
        cut = np.empty((len(points), 2, 2))
        np.add(points, step, out=cut[:, 0])
        np.add(points, 3 * step, out=cut[:, 1])
        points = cut.reshape(-1, 2)
    return points
