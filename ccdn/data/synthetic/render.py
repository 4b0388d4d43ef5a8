"""Turning the painted head into pixels: light on the mesh, then a z-buffer of dense samples.

The coarse mesh is projected, its grid refined until samples lie closer than pixels, and the
nearest samples of each pixel kept. What is kept is only where on the grid a pixel lies; paint,
hair and light are looked up there, so all of them stay smooth.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ccdn.data.synthetic.camera import View
from ccdn.data.synthetic.canvas import Canvas
from ccdn.data.synthetic.head import COLUMNS, RELIEF_DENSITY, ROWS
from ccdn.data.synthetic.look import Light, Look, mix, shade
from ccdn.data.synthetic.parameters import Draw
from ccdn.data.synthetic.skin import Cover

_FINE = 1.15  # samples per pixel along an axis, where the mesh faces the camera
_NEAR = 0.06  # samples this much behind the nearest one belong to the same surface
_EIGHT = np.ones((3, 3), np.uint8)


@dataclass(frozen=True)
class Layer:
    """The head as the camera sees it, in a window of the picture."""

    window: tuple[slice, slice]
    colour: np.ndarray  # (h, w, 3) float32
    alpha: np.ndarray  # (h, w) float32
    depth: np.ndarray  # (H, W) float32 of the whole picture, -inf where there is no head
    hair: np.ndarray  # (H, W) bool


def render_head(
    view: View, canvas: Canvas, cover: Cover, look: Look, light: Light, size: int, draw: Draw
) -> Layer:
    """Render the painted head into a picture of this size."""
    head, camera = view.head, view.camera
    cell = canvas.coordinates(head.mesh_angles[None, :], head.mesh_heights[:, None])
    mesh = head.mesh.astype(np.float32)
    if look.volume > 0:
        width = 2 * round(0.10 * canvas.density) + 1
        smooth = cv2.blur(cover.hair, (width, width))
        thick = cv2.remap(smooth, *cell, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        # Hair thins out towards the neck.
        upper = np.clip(1.2 - head.mesh_heights, 0, 1).astype(np.float32)[:, None]
        mesh *= (1 + thick * (upper * np.float32(look.volume / 255)))[..., None]
    seen = camera.turned(mesh)
    factor = np.float32(camera.scale * camera.distance) / (
        np.float32(camera.distance) - seen[..., 2:]
    )
    flat = seen[..., :2] * factor + camera.centre.astype(np.float32)
    bright, gloss = _brightness(view, seen, light)
    left, right, top, bottom = (_bound(edge, size) for edge in _limits(flat))
    window = (slice(top, max(bottom, top + 1)), slice(left, max(right, left + 1)))
    shape = (window[0].stop - top, window[1].stop - left)
    rows, columns, near = _nearest(
        flat - np.array([left, top], np.float32), seen[..., 2], camera.scale, shape
    )
    inside = rows >= 0
    u, v = cv2.split(cv2.remap(cv2.merge(cell), columns, rows, cv2.INTER_LINEAR))
    colour, hair = _albedo(canvas, cover, look, u, v, draw)
    colour = cv2.multiply(colour, cv2.remap(bright, columns, rows, cv2.INTER_LINEAR))
    shine = cv2.remap(gloss, columns, rows, cv2.INTER_LINEAR) * (255 - np.float32(0.6) * hair)
    colour += shine[..., None]
    alpha = cv2.GaussianBlur(inside.astype(np.float32), (3, 3), 0.55)
    depth = np.full((size, size), -np.inf, np.float32)
    depth[window] = near
    hairy = np.zeros((size, size), bool)
    hairy[window] = (hair > 150) & inside
    return Layer(window, colour, alpha, depth, hairy)


def _limits(flat: np.ndarray) -> tuple[float, float, float, float]:
    """Least and largest x, then y, of pixels (ROWS, COLUMNS, 2), with room for soft edges."""
    (x0, x1, *_), (y0, y1, *_) = (cv2.minMaxLoc(flat[..., k]) for k in (0, 1))
    return x0 - 2, x1 + 3, y0 - 2, y1 + 3


def _bound(edge: float, size: int) -> int:
    return int(min(max(edge, 0), size))


def _albedo(
    canvas: Canvas, cover: Cover, look: Look, u: np.ndarray, v: np.ndarray, draw: Draw
) -> tuple[np.ndarray, np.ndarray]:
    """Colour (h, w, 3) float32 and hair (h, w) uint8 at places of the canvas."""

    def find(source: np.ndarray) -> np.ndarray:
        return cv2.remap(source, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def grain(rows: int, columns: int) -> np.ndarray:
        """Smooth noise with this many grains over the canvas."""
        field = draw.rng.standard_normal((rows, columns), dtype=np.float32)
        height, width = canvas.shape
        x, y = u * np.float32((columns - 1) / width), v * np.float32((rows - 1) / height)
        return cv2.remap(field, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    colour = find(canvas.paint).astype(np.float32)
    patches = grain(24, 28)
    colour *= (1 + 0.035 * patches)[..., None]
    if cover.beard is not None:
        weight = find(cover.beard).astype(np.float32)
        fine = grain(110, 130) if look.beard == "stubble" else grain(70, 150)
        if look.beard == "stubble":
            weight *= np.clip(look.stubble + 0.12 * fine, 0, 0.7) / 255
            ground = mix(shade(look.hair, 0.7), look.skin, 0.2)
            colour += (np.array(ground, np.float32) - colour) * weight[..., None]
        else:
            texture = np.clip(0.95 + 0.25 * fine, 0.4, 1.7)[..., None]
            weight *= np.clip(0.9 + 0.15 * fine, 0.4, 1) / 255
            colour += (np.array(look.hair, np.float32) * texture - colour) * weight[..., None]
    hair = find(cover.hair)
    if hair.any():
        strands = np.clip(1 + look.strands * grain(9, 190) + 0.12 * patches, 0.4, 1.6)[..., None]
        weight = (hair * np.float32(1 / 255))[..., None]
        colour += (np.array(look.hair, np.float32) * strands - colour) * weight
    return colour, hair


def _brightness(view: View, seen: np.ndarray, light: Light) -> tuple[np.ndarray, np.ndarray]:
    """Light on the mesh: a factor for each colour (ROWS, COLUMNS, 3), and gloss; float32."""
    across, down = _slopes(seen)
    ax, ay, az = (across[..., k] for k in range(3))
    dx, dy, dz = (down[..., k] for k in range(3))
    # The frame is left-handed (z towards the camera): this order of the product points outwards.
    nx, ny, nz = az * dy - ay * dz, ax * dz - az * dx, ax * dy - ay * dx
    length = 1 / (np.sqrt(nx * nx + ny * ny + nz * nz) + np.float32(1e-9))

    def facing(x: float, y: float, z: float) -> np.ndarray:
        dot = (np.float32(x) * nx + np.float32(y) * ny + np.float32(z) * nz) * length
        return np.maximum(dot, 0, out=dot)

    lit, hollow = _shadows(view, light)
    lamp = facing(*light.towards) * lit
    around = facing(*light.fill_towards)
    around *= np.float32(light.fill)
    bright = np.empty((*lit.shape, 3), np.float32)
    for k in range(3):
        bright[..., k] = lamp * np.float32(light.colour[k])
        bright[..., k] += (around + np.float32(light.ambient[k])) * hollow
    half = light.towards + np.array([0.0, 0.0, 1.0])
    gloss = facing(*(half / np.linalg.norm(half)))
    for _ in range(4):
        gloss *= gloss
    return bright, np.float32(light.gloss) * lit * gloss


def _slopes(field: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Differences of a field (ROWS, COLUMNS, k) along columns and rows."""
    across, down = np.empty_like(field), np.empty_like(field)
    np.subtract(field[:, 2:], field[:, :-2], out=across[:, 1:-1])
    np.subtract(field[2:], field[:-2], out=down[1:-1])
    across[:, 0], across[:, -1] = field[:, 1] - field[:, 0], field[:, -1] - field[:, -2]
    down[0], down[-1] = field[1] - field[0], field[-1] - field[-2]
    return across, down


def _shadows(view: View, light: Light) -> tuple[np.ndarray, np.ndarray]:
    """Two factors on the mesh: the lamp's light past nose and brows, and openness to the sky."""
    head = view.head
    relief = head.relief
    local = light.towards @ view.camera.rotation  # the lamp in the head frame
    both = np.empty((*relief.shape, 2), np.float32)
    both[..., 0] = 1
    if light.shadow > 0.05 and local[2] > 0.1:
        slope = local[:2] / local[2]
        blocked = np.zeros_like(relief)
        for step in (0.06, 0.13, 0.22):
            rise = np.float32(step / max(float(np.hypot(*slope)), 0.3))
            dx, dy = slope * float(rise) * RELIEF_DENSITY
            moved = cv2.warpAffine(
                relief,
                np.array([[1, 0, dx], [0, 1, dy]]),
                relief.shape[::-1],
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REPLICATE,
            )
            np.maximum(blocked, moved - relief - rise, out=blocked)
        both[..., 0] -= np.minimum(blocked * 14, 1) * np.float32(light.shadow)
    hollow = cv2.blur(relief, (9, 9)) - relief
    both[..., 1] = np.clip(1 - 3.2 * hollow, 0.55, 1.12)
    both = cv2.blur(both, (3, 3))
    y = np.broadcast_to(head.mesh_heights[:, None], (ROWS, COLUMNS))
    at = head.relief_cell(head.mesh[..., 0], y)
    found = cv2.remap(both, *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    front = np.clip(3.0 * np.cos(head.mesh_angles), 0, 1).astype(np.float32)[None, :, None]
    found = 1 + (found - 1) * front
    return found[..., 0], found[..., 1]


def _nearest(
    flat: np.ndarray, depth: np.ndarray, scale: float, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which place of the mesh each pixel of a window shows.

    Returns mesh row and column (shape) float32, -1 where there is none, and depth.
    """
    height, width = shape
    across, down = _slopes(flat)
    facing = across[..., 0] * down[..., 1] - across[..., 1] * down[..., 0]
    # Refine only the columns that face the camera anywhere.
    used = np.flatnonzero((facing > 0).any(axis=0))
    if used.size < 2:
        empty = np.full(shape, -1, np.float32)
        return empty, empty, np.full(shape, -np.inf, np.float32)
    first, last = int(used[0]), int(used[-1]) + 1
    fine_rows = max(ROWS, int(4.0 * scale * _FINE))
    fine_columns = max(2, int(5.6 * scale * _FINE * (last - first) / COLUMNS))
    x, y, z, face = (
        cv2.resize(field[:, first:last], (fine_columns, fine_rows), interpolation=cv2.INTER_LINEAR)
        for field in (flat[..., 0], flat[..., 1], depth, facing)
    )
    column, row = (x + np.float32(0.5)).astype(np.int32), (y + np.float32(0.5)).astype(np.int32)
    # Truncation takes -0.9 to 0: the test is on the numbers before it.
    ok = (face > 0) & (x > -0.5) & (y > -0.5) & (column < width) & (row < height)
    kept = np.flatnonzero(ok)
    pixel = (row * width + column).ravel()[kept]
    z = z.ravel()[kept]
    nearest = np.full(height * width, -np.inf, np.float32)
    np.maximum.at(nearest, pixel, z)
    front = z > nearest[pixel] - np.float32(_NEAR)
    kept, pixel = kept[front], pixel[front]
    fine_row = kept // fine_columns
    fine_column = kept - fine_row * fine_columns
    cells = height * width
    count = np.bincount(pixel, minlength=cells)
    total = np.empty((cells, 3), np.float32)
    total[:, 0] = np.bincount(pixel, fine_row, cells)
    total[:, 1] = np.bincount(pixel, fine_column, cells)
    total[:, 2] = count
    rows, columns, near = _without_holes(total.reshape(height, width, 3), nearest.reshape(shape))
    inside = rows >= 0
    step_row, step_column = ROWS / fine_rows, (last - first) / fine_columns
    # cv2.resize aligns the outer edges of the first and last cells.
    rows = np.clip((rows + 0.5) * np.float32(step_row) - 0.5, 0, ROWS - 1)
    columns = np.clip((columns + 0.5) * np.float32(step_column) - 0.5, 0, last - first - 1) + first
    rows[~inside] = -1
    return rows.astype(np.float32), columns.astype(np.float32), near


def _without_holes(
    total: np.ndarray, depth: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean place of each pixel; pixels missed between samples take their neighbours' mean."""
    covered = (total[..., 2] > 0).view(np.uint8)
    holes = cv2.morphologyEx(covered, cv2.MORPH_CLOSE, _EIGHT) > covered
    if holes.any():
        total[holes] = cv2.boxFilter(total, -1, (3, 3), normalize=False)[holes]
        depth[holes] = cv2.dilate(depth, _EIGHT)[holes]
    weight = np.maximum(total[..., 2], 1)
    outside = total[..., 2] == 0
    rows, columns = total[..., 0] / weight, total[..., 1] / weight
    rows[outside] = -1
    columns[outside] = -1
    return rows, columns, depth
