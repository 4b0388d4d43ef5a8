"""The skin unrolled flat: a picture whose columns follow the surface around the head.

Column and row are u = w(y) a and y, with a the angle around the head (head.py): near the nose u is x,
at the sides it goes on around. Paint is uint8 RGB; shapes are given in front view and bent onto the
canvas, so that what is painted stays on the landmarks under every pose.
"""

from __future__ import annotations

import cv2
import numpy as np

from ccdn.data.synthetic.head import Head

REACH = 2.3  # u covers -REACH..REACH
TOP, BOTTOM = -1.95, 2.25  # heights covered
Colour = tuple[float, float, float]
_SHIFT = 4


class Canvas:
    """A canvas for one head, `density` cells per head unit."""

    def __init__(self, head: Head, density: float, ground: Colour) -> None:
        self.head = head
        self.density = density
        shape = (round((BOTTOM - TOP) * density), round(2 * REACH * density), 3)
        self.paint = np.empty(shape, np.uint8)
        self.paint[:] = np.clip(ground, 0, 255).astype(np.uint8)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.paint.shape[0], self.paint.shape[1]

    def cells(self, points: np.ndarray, flat: bool = False) -> np.ndarray:
        """Front-view points (n, 2), or unrolled ones where `flat`, as column and row (n, 2)."""
        u, y = points[:, 0], points[:, 1]
        if not flat:
            width = np.maximum(self.head.half_width(y), 1e-6)
            u = width * np.arcsin(np.clip(u / width, -1, 1))
        return np.stack([(u + REACH) * self.density, (y - TOP) * self.density], axis=1)

    def coordinates(self, angle: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Column and row (float32) of surface points given by angle and height."""
        u = self.head.half_width(y) * angle
        column = ((u + REACH) * self.density).astype(np.float32)
        row = np.broadcast_to((y - TOP) * self.density, column.shape).astype(np.float32)
        return column, row

    def mask(self, points: np.ndarray, soft: float = 0.0, flat: bool = False) -> np.ndarray:
        """A polygon as a mask over the whole canvas, float32 in 0..1, its edge softened."""
        out = np.zeros(self.shape, np.uint8)
        cv2.fillPoly(out, [_fixed(self.cells(points, flat))], 255, cv2.LINE_AA, _SHIFT)
        if soft > 0:
            out = cv2.GaussianBlur(out, (0, 0), max(soft * self.density, 0.3))
        return out.astype(np.float32) * (1 / 255)

    def fill(self, points: np.ndarray, colour: Colour, alpha: float = 1.0, soft: float = 0.0) -> None:
        """Paint a polygon with this opacity and softness of edge (head units)."""
        self._stamp(points, colour, alpha, soft, 0.0)

    def line(
        self, points: np.ndarray, colour: Colour, width: float, alpha: float = 1.0, soft: float = 0.0
    ) -> None:
        """Paint an open line of this width (head units)."""
        self._stamp(points, colour, alpha, soft, width)

    def _stamp(
        self, points: np.ndarray, colour: Colour, alpha: float, soft: float, width: float
    ) -> None:
        cells = self.cells(points)
        margin = int(3 * soft * self.density + width * self.density) + 3
        (x0, y0), (x1, y1) = cells.min(axis=0) - margin, cells.max(axis=0) + margin
        left, top = max(int(x0), 0), max(int(y0), 0)
        area = self.paint[top : max(int(y1), 0) + 1, left : max(int(x1), 0) + 1]
        if area.size == 0:
            return
        out = np.zeros(area.shape[:2], np.uint8)
        shape = _fixed(cells - (left, top))
        strength = alpha
        if width > 0:
            thin = width * self.density
            thickness = max(1, round(thin))
            strength = alpha * min(1.0, thin / thickness + 0.15)
            cv2.polylines(out, [shape], False, 255, thickness, cv2.LINE_AA, _SHIFT)
        else:
            cv2.fillPoly(out, [shape], 255, cv2.LINE_AA, _SHIFT)
        if soft > 0:
            out = cv2.GaussianBlur(out, (0, 0), max(soft * self.density, 0.3))
        weight = out[..., None].astype(np.float32) * (strength / 255)
        area[:] = (area + (np.asarray(colour, np.float32) - area) * weight).astype(np.uint8)

    def blend(self, colour: Colour | np.ndarray, weight: np.ndarray) -> None:
        """Mix a colour, or a picture of the canvas' size, into the paint by a mask in 0..1."""
        ground = self.paint.astype(np.float32)
        mixed = ground + (np.asarray(colour, np.float32) - ground) * weight[..., None]
        np.clip(mixed, 0, 255, out=mixed)
        self.paint = mixed.astype(np.uint8)


def _fixed(cells: np.ndarray) -> np.ndarray:
    return np.round(cells * (1 << _SHIFT)).astype(np.int32)


def ellipse(x: float, y: float, rx: float, ry: float, samples: int = 20) -> np.ndarray:
    """An ellipse as a polygon (samples, 2)."""
    t = np.linspace(0, 2 * np.pi, samples, endpoint=False)
    return np.stack([x + rx * np.cos(t), y + ry * np.sin(t)], axis=1)
