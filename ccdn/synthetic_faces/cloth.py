"""Masks and scarves: sheets of cloth that follow the head's surface and are lit as it is."""

from __future__ import annotations

import cv2
import numpy as np

from ccdn.data.shapes import SHIFT, Colour, in_sixteenths, shade
from ccdn.synthetic_faces.camera import View
from ccdn.synthetic_faces.head import Head
from ccdn.synthetic_faces.look import Light, Look, any_colour
from ccdn.synthetic_faces.parameters import RandomStream
from ccdn.synthetic_faces.raster import normals, rasterise
from ccdn.synthetic_faces.render import Layer, brightness

_SIDE = 33  # points of a sheet along an edge
_CELLS = 3  # of the texture for each of them
_REACH = (2.8, 1.6)  # of a sheet along columns and rows, head units
_U, _V = np.linspace(-1, 1, _SIDE)[None], np.linspace(0, 1, _SIDE)[:, None]
_FINE_U = np.linspace(-1, 1, _SIDE * _CELLS, dtype=np.float32)[None]
_FINE_V = np.linspace(0, 1, _SIDE * _CELLS, dtype=np.float32)[:, None]
_PLEATS = (0.36, 0.52, 0.68)
_SURGICAL: list[Colour] = [(140, 186, 214), (164, 204, 222), (226, 230, 230), (40, 40, 44)]


def wear(
    picture: np.ndarray,
    view: View,
    layer: Layer,
    look: Look,
    light: Light,
    draw: RandomStream,
    scarf: bool,
) -> np.ndarray:
    """Put a mask or a scarf on a head; returns what it hides, (H, W) bool."""
    if scarf:
        sheet, albedo = _scarf(view.head, draw)
    else:
        sheet, albedo = _mask(view.head, draw)
        if look.style != "long":
            _loops(picture, view, sheet, light)
    size = picture.shape[0]
    seen = view.camera.turned(sheet)
    raster = rasterise(seen, view.camera, size, _REACH)
    shown = raster.inside & (raster.depth > layer.depth[raster.window] - 0.10)
    even = np.ones(sheet.shape[:2], np.float32)
    lit = cv2.remap(
        brightness(normals(seen), light, even, even),
        raster.columns,
        raster.rows,
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    found = cv2.remap(
        albedo,
        raster.columns * np.float32(_CELLS),
        raster.rows * np.float32(_CELLS),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    colour = cv2.multiply(found, np.ascontiguousarray(lit[..., :3]), dtype=cv2.CV_8U)
    alpha = cv2.GaussianBlur(shown.astype(np.float32), (3, 3), 0.55)
    ground = picture[raster.window]
    ground[:] = cv2.blendLinear(colour, np.ascontiguousarray(ground), alpha, 1 - alpha)
    hidden = np.zeros((size, size), bool)
    hidden[raster.window] = shown
    return hidden


def _taut(depth: np.ndarray) -> np.ndarray:
    """Depths (n, n) of cloth drawn tight over these: straight between protruding points, with its
    edge touching. The obstacle problem, solved by relaxation."""
    cloth = depth.copy()
    for _ in range(8):
        inner = cv2.blur(cloth, (7, 7), borderType=cv2.BORDER_REPLICATE)[1:-1, 1:-1]
        np.maximum(inner, depth[1:-1, 1:-1], out=cloth[1:-1, 1:-1])
    return cloth


def _mask(head: Head, draw: RandomStream) -> tuple[np.ndarray, np.ndarray]:
    """The sheet (n, n, 3) float32 and the colours of a mask: surgical, of cloth, or moulded."""
    an = head.anatomy
    kind = draw.choose({"surgical": 0.6, "cloth": 0.25, "moulded": 0.15})
    reach = np.deg2rad(draw.uniform(60.0, 72.0))
    # Over the bridge of the nose; one in eight is worn below it.
    top = an.tip_y - draw.uniform(0.14, 0.30)
    if draw.chance(0.12):
        top = an.identity.nose_y + 0.05
    corner = max(top + 0.05, draw.uniform(0.34, 0.46))
    low = draw.uniform(0.66, 0.76) * an.chin_y
    upper = top + (corner - top) * np.abs(_U) ** 1.3
    lower = an.chin_y - 0.015 - (an.chin_y - low) * np.abs(_U) ** 2.2
    y = upper + _V * (lower - upper)
    angle = np.broadcast_to(reach * _U, y.shape)
    sheet = head.surface(angle.ravel(), y.ravel()).reshape(_SIDE, _SIDE, 3)
    sheet[..., 2] = _taut(sheet[..., 2])
    rise = 4 * _V * (1 - _V) * (1 - _U**2)
    if kind == "moulded":
        sheet[..., 2] += 0.16 * np.exp(-np.abs(_U) / 0.25) * np.minimum(rise * 2, 1)
    elif kind == "surgical":
        for pleat in _PLEATS:
            fold = np.clip((_V - pleat) / 0.10, 0, 1)
            sheet[..., 2] += 0.035 * np.where(fold > 0, 1 - fold, 0) * (1 - _U**6)
    sheet[..., :2] *= 1.015
    sheet[..., 2] += 0.03 + 0.03 * rise
    sheet[-1, :, 1] += 0.03
    return sheet.astype(np.float32), _mask_colours(kind, draw)


def _mask_colours(kind: str, draw: RandomStream) -> np.ndarray:
    if kind == "surgical":
        ground = shade(_SURGICAL[draw.below(len(_SURGICAL))], draw.uniform(0.92, 1.06))
    else:
        ground = (232.0, 232.0, 228.0) if kind == "moulded" else any_colour(draw, 20, 230)
    factor = _weave(draw)
    if kind == "surgical":
        for pleat in _PLEATS:
            factor *= 1 - 0.30 * np.exp(-(((_FINE_V - pleat) / 0.012) ** 2))
    # A hem all around, and its seam.
    edge = np.minimum(np.minimum(_FINE_V, 1 - _FINE_V), 0.7 * (1 - np.abs(_FINE_U)))
    factor *= 1 - 0.12 * (edge < 0.045) - 0.14 * (np.abs(edge - 0.05) < 0.008)
    colours = np.clip(factor[..., None] * np.array(ground, np.float32), 0, 255).astype(np.uint8)
    return _printed(colours, draw) if kind == "cloth" else colours


def _scarf(head: Head, draw: RandomStream) -> tuple[np.ndarray, np.ndarray]:
    """The same of a scarf, from nose or mouth down over the neck, in folds."""
    an = head.anatomy
    width = an.identity.width
    top = draw.uniform(an.tip_y - 0.1, an.mouth_y - 0.04)
    upper = top + draw.uniform(-0.10, 0.16) * _U**2
    y = upper + _V * (an.chin_y + draw.uniform(0.3, 0.6) - upper)
    angle = np.broadcast_to(np.deg2rad(96.0) * _U, y.shape)
    on_face = np.minimum(y, an.chin_y - 0.03)
    sheet = head.surface(angle.ravel(), on_face.ravel()).reshape(_SIDE, _SIDE, 3)
    sheet[..., 1] = y
    # Below the jaw it goes around the neck.
    round_x, round_z = 0.80 * width * np.sin(angle), 0.12 + 0.85 * np.cos(angle)
    outer = np.abs(round_x) > np.abs(sheet[..., 0])
    sheet[..., 0] = np.where(outer, round_x, sheet[..., 0])
    sheet[..., 2] = _taut(np.maximum(sheet[..., 2], round_z))
    turns, slope, phase = draw.uniform(2.0, 4.5), draw.normal(0.0, 0.7), draw.uniform(0, 6)
    fold = np.sin(2 * np.pi * (turns * _V + slope * _U) + phase + 1.5 * np.sin(3 * _U + phase))
    sheet[..., 2] += 0.05 + 0.035 * fold * np.minimum(6 * _V, 1)
    sheet[..., 0] *= 1.05
    ground = any_colour(draw, 20, 225)
    colours = np.clip(_weave(draw)[..., None] * np.array(ground, np.float32), 0, 255).astype(
        np.uint8
    )
    return sheet.astype(np.float32), _printed(colours, draw)


def _weave(draw: RandomStream) -> np.ndarray:
    """Brightness of cloth, about 1, over its texture."""
    side = _SIDE * _CELLS
    threads = draw.rng.standard_normal((side // 3, side // 3), dtype=np.float32)
    return cv2.resize(1 + np.float32(0.035) * threads, (side, side))


def _printed(colours: np.ndarray, draw: RandomStream) -> np.ndarray:
    """Stripes or dots in a second colour on half of the cloths."""
    kind = draw.choose({"none": 0.5, "stripes": 0.25, "dots": 0.25})
    if kind == "none":
        return colours
    pitch, slope = draw.uniform(5, 14), draw.normal(0.0, 1.0)
    first, second = pitch * (_FINE_V + slope * _FINE_U) % 1, 1.2 * pitch * _FINE_U % 1
    if kind == "stripes":
        chosen = first < draw.uniform(0.2, 0.5)
    else:
        chosen = (pitch * _FINE_V % 1 - 0.5) ** 2 + (second - 0.5) ** 2 < draw.uniform(0.04, 0.12)
    colours[np.broadcast_to(chosen, colours.shape[:2])] = any_colour(draw)
    return colours


def _loops(picture: np.ndarray, view: View, sheet: np.ndarray, light: Light) -> None:
    """The loops from a mask's corners to the ear that the camera sees."""
    width = view.head.anatomy.identity.width
    thick = max(1, round(0.03 * view.camera.scale))
    for side, column in ((-1, 0), (1, -1)):
        if float((view.camera.rotation @ np.array([side, 0.0, 0.1]))[2]) < 0:
            continue
        for corner, ear in ((sheet[1, column], -0.02), (sheet[-2, column], 0.42)):
            end = np.array([side * 1.02 * width, ear, -0.06])
            middle = (corner + end) / 2 + np.array([side * 0.03, 0.0, 0.03])
            way = view.camera.project(np.stack([corner, middle, end]).astype(np.float64))
            bright = 225.0 * min(light.level, 1.0)
            line = in_sixteenths(way[:, :2])
            cv2.polylines(picture, [line], False, (bright,) * 3, thick, cv2.LINE_AA, SHIFT)
