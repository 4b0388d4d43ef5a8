"""Turning the painted head into pixels: light on the mesh, then a z-buffer of dense samples.

The coarse mesh is projected, its grid refined until samples lie closer than pixels, and the nearest
sample of each pixel kept. What is kept is only where on the grid a pixel lies; paint and light are
looked up there, so both stay smooth.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ccdn.data.synthetic.camera import View
from ccdn.data.synthetic.canvas import Canvas
from ccdn.data.synthetic.head import COLUMNS, ROWS
from ccdn.data.synthetic.parameters import Draw

_FINE = 1.35  # samples per pixel along an axis, where the mesh faces the camera
_NEAR = 0.06  # samples this much behind the nearest one belong to the same surface


@dataclass(frozen=True)
class Light:
    """A lamp far away, a weaker one from elsewhere, and light from all around."""

    towards: np.ndarray  # (3,) unit vector to the lamp, camera frame
    colour: np.ndarray  # (3,)
    fill_towards: np.ndarray
    fill: float
    ambient: np.ndarray  # (3,)
    gloss: float
    shadow: float  # 0..1, darkness of cast shadows


@dataclass(frozen=True)
class Layer:
    """The head as the camera sees it: colour, coverage and depth of each pixel."""

    colour: np.ndarray  # (H, W, 3) float32
    alpha: np.ndarray  # (H, W) float32
    depth: np.ndarray  # (H, W) float32, -inf where there is no head
    hair: np.ndarray  # (H, W) float32, how much of a pixel is hair


def draw_light(draw: Draw) -> Light:
    """Draw the light: mostly soft from the front, sometimes hard from a side or dim."""

    def towards(azimuth: float, elevation: float) -> np.ndarray:
        a, e = np.deg2rad(azimuth), np.deg2rad(elevation)
        return np.array([np.sin(a) * np.cos(e), -np.sin(e), np.cos(a) * np.cos(e)])

    hard = draw.chance(0.3)
    azimuth = draw.normal(0.0, 45.0 if hard else 28.0)
    lamp = towards(azimuth, draw.uniform(-15.0, 65.0))
    power = draw.uniform(0.75, 1.15) if hard else draw.uniform(0.3, 0.75)
    warm = draw.normal(0.0, 0.07)
    colour = np.array([1 + warm, 1.0, 1 - warm])
    ambient = draw.uniform(0.12, 0.35) if hard else draw.uniform(0.35, 0.65)
    cast = np.array([1.0 + draw.normal(0, 0.05) for _ in range(3)])
    level = draw.uniform(0.75, 1.15)
    return Light(
        towards=lamp,
        colour=colour * power * level,
        fill_towards=towards(-azimuth + draw.normal(0, 30.0), draw.uniform(-30.0, 30.0)),
        fill=draw.uniform(0.0, 0.3) * level,
        ambient=cast * ambient * level,
        gloss=draw.uniform(0.0, 0.22),
        shadow=draw.uniform(0.3, 0.9) if hard else draw.uniform(0.0, 0.5),
    )


def render_head(
    view: View, canvas: Canvas, hair: np.ndarray, volume: float, light: Light, size: int
) -> Layer:
    """Render the head. `hair` is its mask on the canvas, `volume` its thickness in head units."""
    head, camera = view.head, view.camera
    angle, height = head.mesh_angles[None, :], head.mesh_heights[:, None]
    cell = canvas.coordinates(angle, height)
    mesh = head.mesh()
    if volume > 0:
        smooth = cv2.GaussianBlur(hair, (0, 0), 0.05 * canvas.density)
        thick = cv2.remap(smooth, *cell, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        grown = 1 + volume * thick[..., None]
        mesh = mesh * (grown, grown * 0.25 + 0.75, grown) if False else mesh * grown
    seen = camera.turned(mesh)
    factor = camera.scale * camera.distance / (camera.distance - seen[..., 2:])
    flat = seen[..., :2] * factor + camera.centre
    bright = _brightness(view, seen, light)
    rows, columns, depth = _nearest(flat, seen[..., 2], camera.scale, size)
    inside = rows >= 0
    u = cv2.remap(cell[0], columns, rows, cv2.INTER_LINEAR)
    v = cv2.remap(cell[1], columns, rows, cv2.INTER_LINEAR)
    paint = cv2.remap(canvas.paint, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    where_hair = cv2.remap(hair, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) * inside
    lit = cv2.remap(bright, columns, rows, cv2.INTER_LINEAR)
    gloss = lit[..., 3:] * (1 - 0.6 * where_hair[..., None])
    colour = paint * lit[..., :3] + 255.0 * gloss
    alpha = cv2.GaussianBlur(inside.astype(np.float32), (3, 3), 0.55)
    return Layer(colour.astype(np.float32), alpha, depth, where_hair)


def _brightness(view: View, seen: np.ndarray, light: Light) -> np.ndarray:
    """Light (ROWS, COLUMNS, 4) on the mesh: a factor for each colour, and gloss."""
    across, down = np.gradient(seen, axis=1), np.gradient(seen, axis=0)
    ax, ay, az = (across[..., k] for k in range(3))
    dx, dy, dz = (down[..., k] for k in range(3))
    # The frame is left-handed (z towards the camera), so this cross product points outwards.
    normal = np.stack([-(ay * dz - az * dy), -(az * dx - ax * dz), ax * dy - ay * dx], axis=-1)
    normal *= np.array([1.0, 1.0, 1.0])
    normal /= np.sqrt(np.einsum("rck,rck->rc", normal, normal))[..., None] + 1e-9
    lamp = np.clip(normal @ light.towards, 0, None)
    fill = np.clip(normal @ light.fill_towards, 0, None)
    lit, hollow = _shadows(view, light)
    out = np.empty((*lamp.shape, 4), np.float32)
    out[..., :3] = (lamp * lit)[..., None] * light.colour
    out[..., :3] += (light.fill * fill * hollow)[..., None] + hollow[..., None] * light.ambient
    half = light.towards + np.array([0.0, 0.0, 1.0])
    half /= np.linalg.norm(half)
    out[..., 3] = light.gloss * lit * np.clip(normal @ half, 0, None) ** 18
    return out


def _shadows(view: View, light: Light) -> tuple[np.ndarray, np.ndarray]:
    """Two factors on the mesh: the lamp's light past nose and brows, and openness to the sky."""
    head = view.head
    relief = head.relief
    local = light.towards @ view.camera.rotation  # the lamp in the head frame
    blocked = np.zeros_like(relief)
    if light.shadow > 0.05 and local[2] > 0.1:
        slope = local[:2] / local[2]
        for step in (0.06, 0.13, 0.22):
            rise = step / max(float(np.hypot(*slope)), 0.3)
            shift = np.float32([[1, 0, slope[0] * rise * 40], [0, 1, slope[1] * rise * 40]])
            moved = cv2.warpAffine(
                relief,
                shift,
                relief.shape[::-1],
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REPLICATE,
            )
            np.maximum(blocked, moved - relief - np.float32(rise), out=blocked)
        blocked = np.clip(blocked * 14, 0, 1) * light.shadow
    hollow = cv2.GaussianBlur(relief, (0, 0), 5.0) - relief
    both = np.stack([1 - blocked, np.clip(1 - 3.2 * hollow, 0.55, 1.12)], axis=-1)
    both = cv2.GaussianBlur(both.astype(np.float32), (0, 0), 1.0)
    y = np.broadcast_to(head.mesh_heights[:, None], (ROWS, COLUMNS))
    x = head.half_width(y) * np.sin(head.mesh_angles)[None, :]
    at = head.relief_cell(x, y)
    found = cv2.remap(both, *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    front = np.clip(3.0 * np.cos(head.mesh_angles), 0, 1)[None, :, None]
    found = 1 + (found - 1) * front
    return found[..., 0], found[..., 1]


def _nearest(
    flat: np.ndarray, depth: np.ndarray, scale: float, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which place of the mesh each pixel shows.

    Returns mesh row and column (size, size) float32, -1 where there is none, and depth.
    """
    across, down = np.gradient(flat, axis=1), np.gradient(flat, axis=0)
    facing = across[..., 0] * down[..., 1] - across[..., 1] * down[..., 0]
    stack = np.dstack([flat, depth, facing]).astype(np.float32)
    fine_rows = int(min(4.2 * scale * _FINE, 1400))
    fine_columns = int(min(5.2 * scale * _FINE, 1800))
    fine = cv2.resize(stack, (fine_columns, fine_rows), interpolation=cv2.INTER_LINEAR)
    kept = np.flatnonzero(fine[..., 3] > 0)
    chosen = fine.reshape(-1, 4)[kept]
    column = np.rint(chosen[:, 0]).astype(np.int32)
    row = np.rint(chosen[:, 1]).astype(np.int32)
    ok = (column >= 0) & (column < size) & (row >= 0) & (row < size)
    kept, z = kept[ok], chosen[ok, 2]
    pixel = row[ok] * size + column[ok]
    nearest = np.full(size * size, -np.inf, np.float32)
    np.maximum.at(nearest, pixel, z)
    front = z > nearest[pixel] - _NEAR
    kept, pixel = kept[front], pixel[front]
    mesh_row = np.clip((np.arange(fine_rows) + 0.5) * (ROWS / fine_rows) - 0.5, 0, ROWS - 1)
    mesh_column = (np.arange(fine_columns) + 0.5) * (COLUMNS / fine_columns) - 0.5
    mesh_column = np.clip(mesh_column, 0, COLUMNS - 1)
    fine_row, fine_column = np.divmod(kept, fine_columns)
    count = np.bincount(pixel, minlength=size * size)
    total = np.stack(
        [
            np.bincount(pixel, mesh_row[fine_row], size * size),
            np.bincount(pixel, mesh_column[fine_column], size * size),
            count,
        ],
        axis=-1,
    ).astype(np.float32)
    total = total.reshape(size, size, 3)
    return _without_holes(total, nearest.reshape(size, size))


def _without_holes(
    total: np.ndarray, depth: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean place of each pixel; pixels missed between samples take their neighbours' mean."""
    count = total[..., 2]
    empty = count == 0
    covered = (~empty).astype(np.uint8)
    closed = cv2.morphologyEx(covered, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    holes = empty & (closed > 0)
    if holes.any():
        around = cv2.blur(total, (3, 3), borderType=cv2.BORDER_CONSTANT)
        near = cv2.dilate(depth, np.ones((3, 3), np.uint8))
        total = np.where(holes[..., None], around, total)
        depth = np.where(holes, near, depth)
    weight = total[..., 2]
    inside = weight > 0
    safe = np.where(inside, weight, 1)
    rows = np.where(inside, total[..., 0] / safe, -1).astype(np.float32)
    columns = np.where(inside, total[..., 1] / safe, -1).astype(np.float32)
    return rows, columns, depth
