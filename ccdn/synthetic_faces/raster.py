"""Which place of a curved grid each pixel shows: a z-buffer of dense samples.

A grid of points in space is projected and refined until its samples lie closer than pixels, and the
nearest samples of each pixel are kept. What is kept is only where on the grid a pixel lies: paint
and light are looked up there, so both stay smooth.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ccdn.synthetic_faces.camera import Camera

_FINE = 1.0  # samples per pixel along an axis, where the grid faces the camera
_NEAR = 0.06  # samples this much behind the nearest one belong to the same surface
_GAP = 0.15  # and so much behind it, to another
_EIGHT = np.ones((3, 3), np.uint8)


@dataclass(frozen=True)
class Raster:
    """A grid as the camera sees it, in a window (h, w) of the picture."""

    window: tuple[slice, slice]
    rows: np.ndarray  # (h, w) float32, place on the grid; -1 where the pixel shows nothing of it
    columns: np.ndarray
    depth: np.ndarray  # (h, w) float32, -inf where there is nothing
    used: slice  # the columns of the grid that face the camera anywhere

    @property
    def inside(self) -> np.ndarray:
        """Which pixels show the grid, (h, w) bool."""
        return self.rows >= 0


Normals = tuple[np.ndarray, np.ndarray, np.ndarray]


def normals(seen: np.ndarray) -> Normals:
    """Outward normals of a grid (rows, columns, 3) float32 in the camera's frame, of any length:
    x, y, z, each (rows, columns).

    Its columns go around what it covers from left to right, its rows down.
    """
    across, down = _slopes(seen)
    ax, ay, az = cv2.split(across)
    dx, dy, dz = cv2.split(down)
    # The frame is left-handed (z towards the camera): this order of the product points outwards.
    return az * dy - ay * dz, ax * dz - az * dx, ax * dy - ay * dx


def _slopes(field: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Differences of a field (rows, columns, ...) float32 along columns and rows."""
    along, down = (
        cv2.Sobel(field, cv2.CV_32F, dx, 1 - dx, ksize=1, borderType=cv2.BORDER_REPLICATE)
        for dx in (1, 0)
    )
    return along, down


def rasterise(seen: np.ndarray, camera: Camera, size: int, reach: tuple[float, float]) -> Raster:
    """Find what of a grid (rows, columns, 3) float32 in the camera's frame a picture shows.

    Its columns and rows go as those of `normals`: its back is not shown. `reach` is how far it goes
    along its columns and its rows, in head units, about.
    """
    x, y, z = cv2.split(seen)
    factor = np.float32(camera.scale * camera.distance) / (np.float32(camera.distance) - z)
    x = x * factor + np.float32(camera.centre[0])
    y = y * factor + np.float32(camera.centre[1])
    # In the picture, not by the normals: where hair steps up from the skin the two differ, and
    # samples of the step's side would lie too far apart.
    (across_x, down_x), (across_y, down_y) = _slopes(x), _slopes(y)
    facing = across_x * down_y - across_y * down_x
    left, right = (_bound(edge, size) for edge in (x.min() - 2, x.max() + 3))
    top, bottom = (_bound(edge, size) for edge in (y.min() - 2, y.max() + 3))
    window = (slice(top, max(bottom, top + 1)), slice(left, max(right, left + 1)))
    shape = (window[0].stop - top, window[1].stop - left)
    x -= np.float32(left)
    y -= np.float32(top)
    used = np.flatnonzero(facing.max(axis=0) > 0)
    turned = slice(int(used[0]), int(used[-1]) + 1) if used.size > 1 else slice(0, 0)
    rows, columns, depth = _nearest(x, y, z, facing, turned, camera.scale, reach, shape)
    return Raster(window, rows, columns, depth, turned)


def _bound(edge: float, size: int) -> int:
    return int(min(max(edge, 0), size))


def _nearest(
    x: np.ndarray,
    y: np.ndarray,
    depth: np.ndarray,
    facing: np.ndarray,
    used: slice,
    scale: float,
    reach: tuple[float, float],
    shape: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which place of the grid each pixel of a window shows.

    Returns row and column (shape) float32, -1 where there is none, and depth.
    """
    height, width = shape
    if used.stop == 0:
        empty = np.full(shape, -1, np.float32)
        return empty, empty, np.full(shape, -np.inf, np.float32)
    # Refine only the columns that face the camera anywhere.
    used_columns = used.stop - used.start
    grid_rows, grid_columns = x.shape
    along, down = (scale * _FINE * way for way in reach)
    fine_rows = max(grid_rows, int(down))
    fine_columns = max(2, int(along * used_columns / grid_columns))
    x, y, z, face = (
        cv2.resize(field[:, used], (fine_columns, fine_rows), interpolation=cv2.INTER_LINEAR)
        for field in (x, y, depth, facing)
    )
    # A frame of one pixel takes what falls outside.
    stride = width + 2
    column = np.minimum(np.maximum(x + np.float32(1.5), 0), stride - 1).astype(np.int32)
    row = np.minimum(np.maximum(y + np.float32(1.5), 0), height + 1).astype(np.int32)
    kept = np.flatnonzero(face > 0)
    pixel = (row * stride + column).ravel()[kept]
    z = z.ravel()[kept]
    cells = stride * (height + 2)
    nearest = np.full(cells, -np.inf, np.float32)
    np.maximum.at(nearest, pixel, z)
    front = np.flatnonzero(z > nearest[pixel] - np.float32(_NEAR))
    kept, pixel = kept[front], pixel[front]
    fine_row = ((kept + 0.5) * (1 / fine_columns)).astype(np.int32)
    fine_column = kept - fine_row * fine_columns
    rows, columns, count = (
        plane.reshape(height + 2, stride)[1:-1, 1:-1].astype(np.float32)
        for plane in (
            np.bincount(pixel, fine_row, cells),
            np.bincount(pixel, fine_column, cells),
            np.bincount(pixel, minlength=cells),
        )
    )
    depth = np.ascontiguousarray(nearest.reshape(height + 2, stride)[1:-1, 1:-1])
    rows, columns, inside = _without_holes(rows, columns, count, depth)
    # cv2.resize aligns the outer edges of the first and last cells.
    rows = _to_coarse(rows, grid_rows / fine_rows, grid_rows)
    columns = _to_coarse(columns, used_columns / fine_columns, used_columns) + used.start
    rows[~inside] = -1
    columns[~inside] = -1
    return rows, columns, depth


def _to_coarse(place: np.ndarray, step: float, count: int) -> np.ndarray:
    """Where a place of a refined grid lies between the `count` rows or columns it came from."""
    coarse = (place + np.float32(0.5)) * np.float32(step) - np.float32(0.5)
    return np.minimum(np.maximum(coarse, 0), np.float32(count - 1))


def _without_holes(
    rows: np.ndarray, columns: np.ndarray, count: np.ndarray, depth: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean place of each pixel from sums, and where there is one.

    Pixels between the samples show nothing, or what is far behind: they take the mean of those
    neighbours that lie no deeper than the surface around them, and `depth` that surface's.
    """
    closed = cv2.morphologyEx(depth, cv2.MORPH_CLOSE, _EIGHT)
    holes = np.flatnonzero(closed > depth + np.float32(_GAP))
    if holes.size:
        height, width = depth.shape
        row, column = np.divmod(holes[:, None], width)
        row = np.minimum(np.maximum(row + _AROUND[0], 0), height - 1)
        column = np.minimum(np.maximum(column + _AROUND[1], 0), width - 1)
        around = row * width + column
        surface = closed.take(holes)
        same = (depth.take(around) > surface[:, None] - np.float32(_GAP)).astype(np.float32)
        for plane in (rows, columns, count):
            plane.put(holes, np.einsum("nk,nk->n", plane.take(around), same))
        depth.put(holes, surface)
    weight = np.maximum(count, 1)
    return rows / weight, columns / weight, count > 0


_AROUND = np.indices((3, 3)).reshape(2, 1, 9) - 1
