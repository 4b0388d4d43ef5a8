"""The skin unrolled flat: a picture whose columns follow the surface around the head.

Column and row are u = w(y) a and y, with a the angle around the head (head.py): near the nose u
is x, at the sides it continues around. Paint is uint8 RGB; shapes are given in front view and bent
onto the canvas, so that what is painted stays on the landmarks under every pose. Shapes are
opaque and wait in a queue, so that all of them are bent in one go: a face has some eighty.
"""

from __future__ import annotations

from functools import cached_property

import cv2
import numpy as np

from ccdn.data.shapes import SHIFT, Colour
from ccdn.synthetic_faces.head import MESH_ANGLES, Head

REACH = 2.3  # u covers -REACH..REACH
TOP, BOTTOM = -1.95, 2.25  # heights covered


class Canvas:
    """A canvas for one head, `density` cells per head unit."""

    def __init__(self, head: Head, density: float, ground: Colour) -> None:
        self.head = head
        self.density = density
        shape = (round((BOTTOM - TOP) * density), round(2 * REACH * density), 3)
        self.paint = np.empty(shape, np.uint8)
        cv2.rectangle(self.paint, (0, 0), (shape[1], shape[0]), ground, cv2.FILLED)
        self._shapes: list[np.ndarray] = []
        self._how: list[tuple[Colour, float]] = []

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.paint.shape[0], self.paint.shape[1]

    @cached_property
    def mesh_cells(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the head's mesh lies: column and row, (ROWS, COLUMNS) float32."""
        y = self.head.mesh_heights
        u = self.head.half_width(y)[:, None] * MESH_ANGLES
        column = ((u + REACH) * self.density).astype(np.float32)
        row = np.empty_like(column)
        row[:] = ((y - TOP) * self.density)[:, None]
        return column, row

    def _cells(self, points: np.ndarray, unrolled: bool) -> np.ndarray:
        """Columns and rows (n, 2) in sixteenths, from front-view or unrolled points."""
        u, y = points[:, 0], points[:, 1]
        if not unrolled:
            width = np.maximum(self.head.half_width(y), 1e-6)
            u = width * np.arcsin(np.minimum(np.maximum(u / width, -1), 1))
        cells = np.empty(points.shape)
        cells[:, 0], cells[:, 1] = u + REACH, y - TOP
        return np.rint(cells * (self.density * (1 << SHIFT))).astype(np.int32)

    def fill(self, points: np.ndarray, colour: Colour) -> None:
        """Queue a polygon (n, 2) in front view."""
        self._shapes.append(points)
        self._how.append((colour, 0.0))

    def line(self, points: np.ndarray, colour: Colour, width: float) -> None:
        """Queue an open line of this width (head units) in front view."""
        self._shapes.append(points)
        self._how.append((colour, width))

    def flush(self) -> None:
        """Paint what is queued, in order."""
        if not self._shapes:
            return
        cells = self._cells(np.concatenate(self._shapes), unrolled=False)
        end = 0
        for points, (colour, width) in zip(self._shapes, self._how, strict=True):
            start, end = end, end + len(points)
            if width > 0:
                thick = max(1, round(width * self.density))
                line = cells[start:end]
                cv2.polylines(self.paint, [line], False, colour, thick, cv2.LINE_AA, SHIFT)
            else:
                cv2.fillPoly(self.paint, [cells[start:end]], colour, cv2.LINE_AA, SHIFT)
        self._shapes.clear()
        self._how.clear()

    def soften(self, width: float) -> None:
        """Blur the paint of the face by this much (head units)."""
        left, right = (round((REACH + u) * self.density) for u in (-1.25, 1.25))
        face = self.paint[round((-1.05 - TOP) * self.density) :, left:right]
        face[:] = cv2.GaussianBlur(face, (0, 0), max(width * self.density, 0.3))

    def mask(self, polygons: list[np.ndarray], soft: float, unrolled: bool = True) -> np.ndarray:
        """Polygons as one mask over the canvas, uint8, its edge softened (head units)."""
        out = np.zeros(self.shape, np.uint8)
        for points in polygons:
            cells = self._cells(np.asarray(points, np.float64), unrolled)
            cv2.fillPoly(out, [cells], 255, cv2.LINE_AA, SHIFT)
        side = 2 * round(soft * self.density) + 1
        return cv2.blur(out, (side, side)) if side > 1 else out


_CIRCLE = {
    n: (np.cos(t), np.sin(t))
    for n in (8, 12, 20)
    for t in [np.linspace(0, 2 * np.pi, n, endpoint=False)]
}


def ellipse(x: float, y: float, rx: float, ry: float, samples: int = 12) -> np.ndarray:
    """An ellipse as a polygon (samples, 2); samples is 8, 12 or 20."""
    points = np.empty((samples, 2))
    cosine, sine = _CIRCLE[samples]
    points[:, 0] = cosine * rx + x
    points[:, 1] = sine * ry + y
    return points
