"""What is behind and around the head: background, shoulders, neck, long hair, ears."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np

from ccdn.data.shapes import SHIFT, in_sixteenths, polygon, shade, smooth
from ccdn.synthetic_faces.camera import View
from ccdn.synthetic_faces.look import Light, Look, any_colour, mix
from ccdn.synthetic_faces.parameters import RandomStream
from ccdn.synthetic_faces.render import Layer


def background(draw: RandomStream, size: int) -> np.ndarray:
    """A background: a gradient or cloudy ground with shapes, in or out of focus; uint8."""
    rng = draw.rng
    kind = draw.choose({"plain": 0.2, "cloudy": 0.2, "busy": 0.6})
    ground = np.array(any_colour(draw, 4, 250), np.float32)
    if kind == "plain":
        corners = ground + rng.normal(0, 14, (2, 2, 1)) + rng.normal(0, 5, (2, 2, 3))
    else:
        n = int(rng.integers(3, 9))
        corners = ground + rng.normal(0, 38, (n, n, 1)) + rng.normal(0, 8, (n, n, 3))
    # Cubic where it is cheap, and linear to the full size.
    small = cv2.resize(corners.astype(np.float32), (32, 32), interpolation=cv2.INTER_CUBIC)
    small = np.clip(small, 0, 255).astype(np.uint8)
    picture = cv2.resize(small, (size, size), interpolation=cv2.INTER_LINEAR)
    if kind == "busy":
        for _ in range(3 + draw.below(10)):
            _shape(picture, draw, size)
        for _ in range(draw.below(3)):
            _somebody(picture, draw, size)
        side = 2 * round(draw.uniform(0.0, 1.0) ** 2 * 0.05 * size) + 1
        if side > 1:
            picture = cv2.blur(cv2.blur(picture, (side, side)), (side, side))
    return picture


_CIRCLE = np.stack([f(np.linspace(0, 2 * np.pi, 24, endpoint=False)) for f in (np.cos, np.sin)], 1)


def _shape(picture: np.ndarray, draw: RandomStream, size: int) -> None:
    rng = draw.rng
    colour = any_colour(draw)
    x, y = draw.uniform(-0.1, 1.1) * size, draw.uniform(-0.1, 1.1) * size
    w, h = draw.uniform(0.04, 0.5) * size, draw.uniform(0.04, 0.5) * size
    kind = draw.below(4)
    if kind == 0:
        polygon(
            picture,
            np.array([(x - w, y - h), (x + w, y - h), (x + w, y + h), (x - w, y + h)]),
            colour,
        )
    elif kind == 1:
        polygon(picture, _CIRCLE * (w, h) + (x, y), colour)
    elif kind == 2:
        polygon(picture, np.array([x, y]) + rng.normal(0, 0.25 * size, (4, 2)), colour)
    else:
        ends = in_sixteenths(rng.uniform(-0.1, 1.1, (2, 2)) * size)
        thick = max(1, round(draw.uniform(0.005, 0.06) * size))
        cv2.line(picture, ends[0].tolist(), ends[1].tolist(), colour, thick, cv2.LINE_AA, SHIFT)


def _somebody(picture: np.ndarray, draw: RandomStream, size: int) -> None:
    """Another person's head, without a face, at some edge of the picture."""
    skin = shade((214, 160, 128), draw.uniform(0.3, 1.1))
    hair = shade((70, 52, 40), draw.uniform(0.3, 2.5))
    x = (0.5 + (0.5 if draw.chance(0.5) else -0.5) * draw.uniform(0.6, 1.2)) * size
    y, r = draw.uniform(0.1, 0.9) * size, draw.uniform(0.1, 0.35) * size
    polygon(picture, _CIRCLE * (1.7 * r, 1.2 * r) + (x, y + 2.2 * r), any_colour(draw))
    polygon(picture, _CIRCLE * (0.85 * r, 1.15 * r) + (x, y - 0.2 * r), hair)
    polygon(picture, _CIRCLE * (0.7 * r, r) + (x, y + 0.1 * r), skin)


def body(picture: np.ndarray, view: View, look: Look, light: Light, draw: RandomStream) -> None:
    """Shoulders and neck, painted before the head."""
    camera = view.camera
    s = camera.scale
    depth, chin = -0.35, view.head.anatomy.chin_y
    top, low = camera.project(np.array([(0.0, 0.55, depth), (0.0, 1.6, depth)]))[:, :2]
    lean = low - top
    down = 0.55 * lean / np.linalg.norm(lean) + np.array([0.0, 0.45])
    down /= np.linalg.norm(down)
    across = np.array([down[1], -down[0]])
    neck = look.neck * view.head.anatomy.identity.width * s
    end = top + down * (chin - 0.42) * s
    shaded = draw.uniform(0.62, 1.0)
    flare = end + down * 0.5 * s
    ends = np.stack([top, end, flare])
    half = across * neck * _NECK
    # Round as a column: each strip has its own light.
    for left, right in pairwise(_STRIPS):
        sine = (left + right) / 2
        normal = np.array([*(across * sine), np.sqrt(1 - sine**2)])
        strip = np.concatenate([ends + half * left, (ends + half * right)[::-1]])
        polygon(picture, strip, shade(look.skin, shaded * light.on(normal)))
    skin = shade(look.skin, shaded * light.level)
    # The jaw's shadow on the neck.
    jaw = camera.project(view.head.jaw_paths[0][:, 0])[:, :2]
    shadow = np.concatenate([jaw[4:-4] + down * draw.uniform(0.05, 0.4) * s, jaw[-5:3:-1]])
    left, top_row = (max(int(edge) - 1, 0) for edge in shadow.min(axis=0))
    right, bottom_row = (max(int(edge) + 2, 0) for edge in shadow.max(axis=0))
    area = picture[top_row:bottom_row, left:right]
    if area.size:
        dark = area.copy()
        polygon(dark, shadow - (left, top_row), shade(skin, 0.5))
        soft = 2 * round(draw.uniform(0.0, 0.12) * s) + 1
        share = draw.uniform(0.0, 0.9)
        area[:] = cv2.addWeighted(cv2.blur(dark, (soft, soft)), share, area, 1 - share, 0)
    cloth = shade(any_colour(draw, 15, 225), min(light.level, 1.0))
    wide = draw.normal(2.25, 0.2) * s
    collar = end + down * draw.uniform(0.0, 0.35) * s
    deep = draw.uniform(0.1, 0.7) * s
    span = _SHOULDERS * (neck, wide, deep, s)
    shoulders = collar + (span[:, :1] + span[:, 1:2]) * across + (span[:, 2:3] + span[:, 3:]) * down
    polygon(picture, smooth(shoulders, 1), cloth)


# Half widths of a neck at its top, its end and below; and the outline of shoulders: shares of half
# the neck's and the shoulders' width across, of the collar's depth and of a head unit down.
_NECK = np.array([[1.0], [1.05], [1.6]])
_STRIPS = np.sin(np.linspace(-np.pi / 2, np.pi / 2, 10))
_RIGHT = [(1.12, 0, 0, 0), (0, 0.75, 0, 0.32), (0, 1, 0, 0.8), (0, 1, 0, 5.0)]
_LEFT = [(-neck, -wide, deep, unit) for neck, wide, deep, unit in reversed(_RIGHT)]
_SHOULDERS = np.array([(0, 0, 1, 0), *_RIGHT, *_LEFT])


def back_hair(
    picture: np.ndarray, view: View, look: Look, light: Light, draw: RandomStream
) -> None:
    """Long hair that hangs behind the head."""
    if look.style != "long":
        return
    length = draw.uniform(1.0, 2.6)
    spread = draw.uniform(1.12, 1.5)
    back = -0.55
    left = [(-0.9, -1.2), (-spread, -0.5), (-spread * 1.02, 0.4), (-spread * 1.05, length)]
    flat = [*left, *[(-x, y) for x, y in reversed(left)], (0.0, -1.75)]
    points = np.array([(x, y, back) for x, y in flat])
    colour = shade(look.hair, 0.75 * light.level)
    outline = smooth(view.camera.project(points)[:, :2])
    layer = picture.copy()
    polygon(layer, outline, colour)
    mask = np.zeros(picture.shape[:2], np.uint8)
    polygon(mask, outline, (255,))
    rows = max(picture.shape[0] // 16, 2)
    grains = draw.rng.standard_normal((rows, picture.shape[1] // 2), dtype=np.float32)
    streaks = cv2.resize(1 + np.float32(0.16) * grains, picture.shape[1::-1])
    layer = cv2.multiply(layer, cv2.merge((streaks,) * 3), dtype=cv2.CV_8U)
    cv2.copyTo(layer, mask, picture)


_ROUND = np.linspace(0, 2 * np.pi, 18, endpoint=False)
_EAR_Z = -0.10 - 0.19 * np.cos(_ROUND) * (0.75 + 0.35 * np.sin(_ROUND))
# The rim of an ear, (18, 3), from the side of the head; its back stands off.
_EAR = np.stack([0.09 - 0.45 * (_EAR_Z + 0.10), 0.20 - 0.36 * np.sin(_ROUND), _EAR_Z], axis=1)
_EAR_MIDDLE = np.array([0.0, 0.20, -0.10])


def ears(picture: np.ndarray, view: View, look: Look, light: Light, near: bool) -> None:
    """The ears that are painted after (`near`) or before the head."""
    if look.style == "long":
        return
    width = view.head.anatomy.identity.width
    for side in (-1, 1):
        outward = view.camera.rotation @ np.array([side, 0.0, 0.25])
        if (float(outward[2]) > 0.0) != near:
            continue
        rim = _EAR_MIDDLE + (_EAR - _EAR_MIDDLE) * look.ear_size
        rim[:, 0] = side * (rim[:, 0] * look.ear_out + width * 0.985)
        outline = view.camera.project(rim)[:, :2]
        bright = light.on(view.camera.rotation @ np.array([side * 0.6, 0.0, 0.8]))
        skin = mix(shade(look.skin, bright), (190, 90, 80), look.ear_red)
        polygon(picture, outline, skin)
        middle = outline.mean(axis=0)
        polygon(picture, middle + 0.62 * (outline - middle), shade(skin, 0.74))
        polygon(picture, middle + 0.35 * (outline - middle), shade(skin, 0.9))


def over(picture: np.ndarray, layer: Layer) -> None:
    """Put the head over what is behind it, in place."""
    ground = picture[layer.window]
    ground[:] = cv2.blendLinear(layer.colour, ground, layer.alpha, 1 - layer.alpha)
