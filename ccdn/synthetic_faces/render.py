"""Turning the painted head into pixels: light on the mesh, paint, hair and light where the z-buffer
says that a pixel lies.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from ccdn.data.shapes import Colour, shade
from ccdn.synthetic_faces.camera import View
from ccdn.synthetic_faces.canvas import Canvas
from ccdn.synthetic_faces.head import MESH_ANGLES, RELIEF_DENSITY
from ccdn.synthetic_faces.look import Light, Look, mix
from ccdn.synthetic_faces.parameters import RandomStream
from ccdn.synthetic_faces.raster import Normals, normals, rasterise
from ccdn.synthetic_faces.skin import Cover

_REACH = (5.6, 4.0)  # of the mesh along columns and rows, head units
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
    view: View,
    canvas: Canvas,
    cover: Cover,
    look: Look,
    light: Light,
    size: int,
    draw: RandomStream,
) -> Layer:
    """Render the painted head into a picture of this size."""
    head, camera = view.head, view.camera
    cell = canvas.mesh_cells
    mesh = head.mesh
    volume = max(look.volume, 0.07 * (cover.cap is not None))
    if volume > 0:
        width = 2 * round(0.10 * canvas.density) + 1
        smooth = cv2.blur(cover.volume, (width, width))
        thick = cv2.remap(smooth, *cell, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        # Hair thins out towards the neck.
        upper = np.minimum(np.maximum(1.2 - head.mesh_heights, 0), 1).astype(np.float32)[:, None]
        thick = thick * (upper * np.float32(volume / 255)) + np.float32(1)
        mesh = cv2.multiply(mesh, cv2.merge((thick, thick, thick)))
    seen = camera.turned(mesh)
    raster = rasterise(seen, camera, size, _REACH)
    inside = raster.inside
    # Both maps are used several times: fixed point once.
    to_mesh = cv2.convertMaps(raster.columns, raster.rows, cv2.CV_16SC2)
    u, v = cv2.split(cv2.remap(cv2.merge(cell), *to_mesh, cv2.INTER_LINEAR))
    span = _span(cell[0], raster.used, canvas.shape[1])
    to_canvas = cv2.convertMaps(u - np.float32(span.start), v, cv2.CV_16SC2)

    def find(source: np.ndarray) -> np.ndarray:
        return cv2.remap(source, *to_canvas, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    albedo = find(_albedo(canvas, cover, look, span, draw))
    hair = find(np.ascontiguousarray(cover.volume[:, span]))
    light_here = cv2.remap(
        brightness(normals(seen), light, *_shadows(view, light)), *to_mesh, cv2.INTER_LINEAR
    )
    red, green, blue, gloss = cv2.split(light_here)
    colour = cv2.multiply(albedo, cv2.merge((red, green, blue)), dtype=cv2.CV_32F)
    shine = gloss * (255 - np.float32(0.6) * hair)
    colour = cv2.add(colour, cv2.merge((shine, shine, shine)), dtype=cv2.CV_8U)
    alpha = cv2.GaussianBlur(inside.astype(np.float32), (3, 3), 0.55)
    depth = np.full((size, size), -np.inf, np.float32)
    depth[raster.window] = raster.depth
    hairy = np.zeros((size, size), bool)
    hairy[raster.window] = (hair > 150) & inside
    return Layer(raster.window, colour, alpha, depth, hairy)


def _span(columns: np.ndarray, turned: slice, width: int) -> slice:
    """The columns of the canvas that the columns of the mesh turned to the camera need."""
    used = columns[:, turned]
    if not used.size:
        return slice(0, width)
    low, high = int(used.min()) - 1, int(used.max()) + 3
    return slice(max(low, 0), min(max(high, 1), width))


def _albedo(
    canvas: Canvas, cover: Cover, look: Look, span: slice, draw: RandomStream
) -> np.ndarray:
    """Colours of skin, beard and hair in a part of the canvas, uint8."""
    height, width = canvas.shape

    part = (span.stop - span.start) / width

    def grain(rows: int, columns: int) -> np.ndarray:
        """Smooth noise with this many grains over the canvas, for the part of it."""
        y, x = draw.below(_SHEET - rows), draw.below(_SHEET - columns)
        field = _noise()[y : y + rows, x : x + max(round(columns * part), 2)]
        there = (span.stop - span.start, height)
        return cv2.resize(field, there, interpolation=cv2.INTER_LINEAR)

    def coloured(ground: Colour, texture: np.ndarray) -> np.ndarray:
        """A colour times a texture from 0 to 2."""
        table = np.arange(256, dtype=np.float32)[:, None, None] * np.array(ground, np.float32)
        table = np.minimum(table / 128, 255).astype(np.uint8)
        return cv2.applyColorMap(cv2.convertScaleAbs(texture, alpha=128), table)

    def cover_with(top: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Put it over the skin; weights from 0 to 1."""
        return cv2.blendLinear(top, skin, weight, 1 - weight)

    patches = grain(24, 28)
    # Unevenness of every size, and redness that goes with none of them.
    uneven = np.float32(0.05 * look.mottle)
    factor = 1 + uneven * (
        patches + np.float32(0.8) * grain(9, 10) + np.float32(0.6) * grain(60, 66)
    )
    red = factor * (1 + uneven * grain(14, 16))
    skin = cv2.multiply(
        np.ascontiguousarray(canvas.paint[:, span]),
        cv2.merge((red, factor, factor)),
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
    if cover.cap is not None and look.cap is not None:
        woven = np.clip(1 + np.float32(0.08) * grain(60, 90) + np.float32(0.1) * patches, 0.5, 1.5)
        weight = cover.cap[:, span] * np.float32(1 / 255)
        skin = cover_with(coloured(look.cap, woven), weight)
    return skin


@lru_cache(maxsize=1)
def _noise() -> np.ndarray:
    """Standard normal noise, float32, always the same: parts of it are drawn, not numbers."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(_SHEET)))
    return rng.standard_normal((_SHEET, _SHEET), dtype=np.float32)


def brightness(outward: Normals, light: Light, lit: np.ndarray, hollow: np.ndarray) -> np.ndarray:
    """Light on a grid with these normals: a factor for each colour, and gloss; (rows, columns, 4)
    float32. `lit` and `hollow` are `_shadows`.
    """
    nx, ny, nz = outward
    length = 1 / (np.sqrt(nx * nx + ny * ny + nz * nz) + np.float32(1e-9))

    def facing(x: float, y: float, z: float) -> np.ndarray:
        dot = (np.float32(x) * nx + np.float32(y) * ny + np.float32(z) * nz) * length
        return np.maximum(dot, 0, out=dot)

    lamp = facing(*light.towards) * lit
    around = facing(*light.fill_towards) * np.float32(light.fill)
    planes = []
    for k in range(3):
        plane = (
            lamp * np.float32(light.colour[k]) + (around + np.float32(light.ambient[k])) * hollow
        )
        # As film does, keep some of the shape where the light would be too much.
        planes.append(np.minimum(plane, np.float32(0.4) * plane + np.float32(0.54)))
    half = light.towards + np.array([0.0, 0.0, 1.0])
    gloss = facing(*(half / np.linalg.norm(half)))
    for _ in range(4):
        gloss *= gloss
    return cv2.merge((*planes, np.float32(light.gloss) * lit * gloss))


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
