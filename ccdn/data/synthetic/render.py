"""Turning the painted head into pixels: light on the mesh, then a z-buffer of dense samples.

The coarse mesh is projected, its grid refined until samples lie closer than pixels, and the
nearest samples of each pixel kept. What is kept is only where on the grid a pixel lies; paint,
hair and light are looked up there, so all of them stay smooth.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from ccdn.data.synthetic.camera import View
from ccdn.data.synthetic.canvas import Canvas, Colour
from ccdn.data.synthetic.head import COLUMNS, MESH_ANGLES, RELIEF_DENSITY, ROWS
from ccdn.data.synthetic.look import Light, Look, mix, shade
from ccdn.data.synthetic.parameters import Draw
from ccdn.data.synthetic.skin import Cover

_FINE = 1.15  # samples per pixel along an axis, where the mesh faces the camera
_NEAR = 0.06  # samples this much behind the nearest one belong to the same surface
_EIGHT = np.ones((3, 3), np.uint8)
_SHEET = 512  # side of the sheet of noise
_SHADOW_STEPS = (2, 4, 7)  # how far a cast shadow is looked for, cells of the relief


@dataclass(frozen=True)
class Layer:
    """The head as the camera sees it, in a window of the picture."""

    window: tuple[slice, slice]
    colour: np.ndarray  # (h, w, 3) uint8
    alpha: np.ndarray  # (h, w) float32
    depth: np.ndarray  # (H, W) float32 of the whole picture, -inf where there is no head
    hair: np.ndarray  # (H, W) bool


def render_head(
    view: View, canvas: Canvas, cover: Cover, look: Look, light: Light, size: int, draw: Draw
) -> Layer:
    """Render the painted head into a picture of this size."""
    head, camera = view.head, view.camera
    cell = canvas.mesh_cells
    mesh = head.mesh
    if look.volume > 0:
        width = 2 * round(0.10 * canvas.density) + 1
        smooth = cv2.blur(cover.hair, (width, width))
        thick = cv2.remap(smooth, *cell, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        # Hair thins out towards the neck.
        upper = np.minimum(np.maximum(1.2 - head.mesh_heights, 0), 1).astype(np.float32)[:, None]
        thick = thick * (upper * np.float32(look.volume / 255)) + np.float32(1)
        mesh = cv2.multiply(mesh, cv2.merge((thick, thick, thick)))
    seen = camera.turned(mesh)
    x, y, z = cv2.split(seen)
    factor = np.float32(camera.scale * camera.distance) / (np.float32(camera.distance) - z)
    x = x * factor + np.float32(camera.centre[0])
    y = y * factor + np.float32(camera.centre[1])
    left, right = (_bound(edge, size) for edge in (x.min() - 2, x.max() + 3))
    top, bottom = (_bound(edge, size) for edge in (y.min() - 2, y.max() + 3))
    window = (slice(top, max(bottom, top + 1)), slice(left, max(right, left + 1)))
    shape = (window[0].stop - top, window[1].stop - left)
    seen_columns = _facing(x, y)
    x -= np.float32(left)
    y -= np.float32(top)
    rows, columns, near = _nearest(x, y, z, seen_columns, camera.scale, shape)
    inside = rows >= 0
    # Both maps are used several times: fixed point once.
    to_mesh = cv2.convertMaps(columns, rows, cv2.CV_16SC2)
    u, v = cv2.split(cv2.remap(cv2.merge(cell), *to_mesh, cv2.INTER_LINEAR))
    span = _span(cell[0], seen_columns, canvas.shape[1])
    to_canvas = cv2.convertMaps(u - np.float32(span.start), v, cv2.CV_16SC2)

    def find(source: np.ndarray) -> np.ndarray:
        return cv2.remap(source, *to_canvas, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    albedo = find(_albedo(canvas, cover, look, span, draw))
    hair = find(np.ascontiguousarray(cover.hair[:, span]))
    light_here = cv2.remap(_brightness(view, seen, light), *to_mesh, cv2.INTER_LINEAR)
    red, green, blue, gloss = cv2.split(light_here)
    colour = cv2.multiply(albedo, cv2.merge((red, green, blue)), dtype=cv2.CV_32F)
    shine = gloss * (255 - np.float32(0.6) * hair)
    colour = cv2.add(colour, cv2.merge((shine, shine, shine)), dtype=cv2.CV_8U)
    alpha = cv2.GaussianBlur(inside.astype(np.float32), (3, 3), 0.55)
    depth = np.full((size, size), -np.inf, np.float32)
    depth[window] = near
    hairy = np.zeros((size, size), bool)
    hairy[window] = (hair > 150) & inside
    return Layer(window, colour, alpha, depth, hairy)


def _bound(edge: float, size: int) -> int:
    return int(min(max(edge, 0), size))


def _span(columns: np.ndarray, seen: tuple[slice, np.ndarray], width: int) -> slice:
    """The columns of the canvas that the columns of the mesh turned to the camera need."""
    used = columns[:, seen[0]]
    if not used.size:
        return slice(0, width)
    low, high = int(used.min()) - 1, int(used.max()) + 3
    return slice(max(low, 0), min(max(high, 1), width))


def _albedo(canvas: Canvas, cover: Cover, look: Look, span: slice, draw: Draw) -> np.ndarray:
    """Colours of skin, beard and hair in a part of the canvas, uint8."""
    height, width = canvas.shape

    def grain(rows: int, columns: int) -> np.ndarray:
        """Smooth noise with this many grains over the canvas."""
        y, x = draw.below(_SHEET - rows), draw.below(_SHEET - columns)
        field = _noise()[y : y + rows, x : x + columns]
        return cv2.resize(field, (width, height), interpolation=cv2.INTER_LINEAR)[:, span]

    def coloured(ground: Colour, texture: np.ndarray) -> np.ndarray:
        """A colour times a texture from 0 to 2."""
        table = np.arange(256, dtype=np.float32)[:, None, None] * np.array(ground, np.float32)
        table = np.minimum(table / 128, 255).astype(np.uint8)
        return cv2.applyColorMap(cv2.convertScaleAbs(texture, alpha=128), table)

    def cover_with(top: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Put it over the skin; weights from 0 to 1."""
        return cv2.blendLinear(top, skin, weight, 1 - weight)

    patches = grain(24, 28)
    factor = 1 + np.float32(0.035) * patches
    skin = cv2.multiply(
        np.ascontiguousarray(canvas.paint[:, span]),
        cv2.merge((factor, factor, factor)),
        dtype=cv2.CV_8U,
    )
    if cover.beard is not None:
        weight = cover.beard[:, span].astype(np.float32)
        if look.beard == "stubble":
            fine = grain(110, 130)
            weight *= np.clip(look.stubble + 0.12 * fine, 0, 0.7) / 255
            ground = np.empty_like(skin)
            ground[:] = mix(shade(look.hair, 0.7), look.skin, 0.2)
            skin = cover_with(ground, weight)
        else:
            fine = grain(70, 150)
            weight *= np.clip(0.9 + 0.15 * fine, 0.4, 1) / 255
            skin = cover_with(coloured(look.hair, np.clip(0.95 + 0.25 * fine, 0.4, 1.7)), weight)
    if cover.hair.any():
        strands = 1 + np.float32(look.strands) * grain(9, 190) + np.float32(0.12) * patches
        strands = np.minimum(np.maximum(strands, 0.4), 1.6)
        weight = cover.hair[:, span] * np.float32(1 / 255)
        skin = cover_with(coloured(look.hair, strands), weight)
    return skin


@lru_cache(maxsize=1)
def _noise() -> np.ndarray:
    """Standard normal noise, float32, always the same: parts of it are drawn, not numbers."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(_SHEET)))
    return rng.standard_normal((_SHEET, _SHEET), dtype=np.float32)


def _brightness(view: View, seen: np.ndarray, light: Light) -> np.ndarray:
    """Light on the mesh: a factor for each colour, and gloss; (ROWS, COLUMNS, 4) float32."""
    across, down = _slopes(seen)
    ax, ay, az = cv2.split(across)
    dx, dy, dz = cv2.split(down)
    # The frame is left-handed (z towards the camera): this order of the product points outwards.
    nx, ny, nz = az * dy - ay * dz, ax * dz - az * dx, ax * dy - ay * dx
    length = 1 / (np.sqrt(nx * nx + ny * ny + nz * nz) + np.float32(1e-9))

    def facing(x: float, y: float, z: float) -> np.ndarray:
        dot = (np.float32(x) * nx + np.float32(y) * ny + np.float32(z) * nz) * length
        return np.maximum(dot, 0, out=dot)

    lit, hollow = _shadows(view, light)
    lamp = facing(*light.towards) * lit
    around = facing(*light.fill_towards) * np.float32(light.fill)
    planes = [
        lamp * np.float32(light.colour[k]) + (around + np.float32(light.ambient[k])) * hollow
        for k in range(3)
    ]
    half = light.towards + np.array([0.0, 0.0, 1.0])
    gloss = facing(*(half / np.linalg.norm(half)))
    for _ in range(4):
        gloss *= gloss
    return cv2.merge((*planes, np.float32(light.gloss) * lit * gloss))


def _slopes(field: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Differences of a field (ROWS, COLUMNS, ...) along columns and rows."""
    across, down = np.empty_like(field), np.empty_like(field)
    np.subtract(field[:, 2:], field[:, :-2], out=across[:, 1:-1])
    np.subtract(field[2:], field[:-2], out=down[1:-1])
    across[:, 0], across[:, -1] = field[:, 1] - field[:, 0], field[:, -1] - field[:, -2]
    down[0], down[-1] = field[1] - field[0], field[-1] - field[-2]
    return across, down


def _shadows(view: View, light: Light) -> tuple[np.ndarray, np.ndarray]:
    """Two factors on the mesh: the lamp's light past nose and brows, and openness to the sky."""
    relief = view.head.relief
    local = light.towards @ view.camera.rotation  # the lamp in the head frame
    lit = np.ones_like(relief)
    if light.shadow > 0.05 and local[2] > 0.1:
        slope = local[:2] / local[2]
        steep = max(float(np.hypot(*slope)), 0.3)
        reach = _SHADOW_STEPS[-1]
        padded = cv2.copyMakeBorder(relief, reach, reach, reach, reach, cv2.BORDER_REPLICATE)
        blocked = np.zeros_like(relief)
        rows, columns = relief.shape
        for step in _SHADOW_STEPS:
            x, y = (reach + round(step * float(part) / steep) for part in slope)
            rise = np.float32(step / RELIEF_DENSITY / steep)
            moved = padded[y : y + rows, x : x + columns] - relief
            moved -= rise
            np.maximum(blocked, moved, out=blocked)
        blocked *= 14
        lit -= np.minimum(blocked, 1) * np.float32(light.shadow)
    hollow = cv2.blur(relief, (9, 9)) - relief
    hollow *= np.float32(-3.2)
    hollow += 1
    both = cv2.merge((lit, np.minimum(np.maximum(hollow, 0.55), 1.12)))
    both = cv2.blur(both, (3, 3))
    at = view.head.mesh_cells
    found = cv2.remap(both, *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    lit, hollow = cv2.split(found)
    return 1 + (lit - 1) * _FRONT, 1 + (hollow - 1) * _FRONT


# The reliefs are those of the front.
_FRONT = np.clip(3.0 * np.cos(MESH_ANGLES), 0, 1).astype(np.float32)[None]


def _facing(x: np.ndarray, y: np.ndarray) -> tuple[slice, np.ndarray]:
    """Which columns of the projected mesh face the camera anywhere, and how much all of it does."""
    across_x, down_x = _slopes(x)
    across_y, down_y = _slopes(y)
    facing = across_x * down_y - across_y * down_x
    used = np.flatnonzero(facing.max(axis=0) > 0)
    if used.size < 2:
        return slice(0, 0), facing
    return slice(int(used[0]), int(used[-1]) + 1), facing


def _nearest(
    x: np.ndarray,
    y: np.ndarray,
    depth: np.ndarray,
    seen: tuple[slice, np.ndarray],
    scale: float,
    shape: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which place of the mesh each pixel of a window shows.

    Returns mesh row and column (shape) float32, -1 where there is none, and depth.
    """
    height, width = shape
    used, facing = seen
    if used.stop == 0:
        empty = np.full(shape, -1, np.float32)
        return empty, empty, np.full(shape, -np.inf, np.float32)
    # Refine only the columns that face the camera anywhere.
    used_columns = used.stop - used.start
    fine_rows = max(ROWS, int(4.0 * scale * _FINE))
    fine_columns = max(2, int(5.6 * scale * _FINE * used_columns / COLUMNS))
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
    rows = _to_coarse(rows, ROWS / fine_rows, ROWS)
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
    """Mean place of each pixel from sums, and where there is one; pixels missed between samples
    take their neighbours' mean, and in `depth` the nearest of them.
    """
    covered = (count > 0).view(np.uint8)
    closed = cv2.morphologyEx(covered, cv2.MORPH_CLOSE, _EIGHT)
    holes = np.flatnonzero(closed != covered)
    if holes.size:
        for plane in (rows, columns, count):
            plane.ravel()[holes] = cv2.boxFilter(plane, -1, (3, 3), normalize=False).ravel()[holes]
        depth.ravel()[holes] = cv2.dilate(depth, _EIGHT).ravel()[holes]
    weight = 1 / np.maximum(count, 1)
    return rows * weight, columns * weight, closed > 0
