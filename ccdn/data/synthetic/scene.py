"""What is behind and around the head: background, shoulders, neck, long hair, ears."""

from __future__ import annotations

import cv2
import numpy as np

from ccdn.data.synthetic.camera import View
from ccdn.data.synthetic.look import Light, Look, any_colour, mix, shade
from ccdn.data.synthetic.parameters import Draw
from ccdn.data.synthetic.render import Layer

_SHIFT = 4


def polygon(picture: np.ndarray, points: np.ndarray, colour: tuple[float, ...]) -> None:
    """Fill a polygon given in pixels, its edge smooth."""
    fixed = np.round(np.clip(points, -4000, 4000) * (1 << _SHIFT)).astype(np.int32)
    cv2.fillPoly(picture, [fixed], colour, cv2.LINE_AA, _SHIFT)


def smooth(points: np.ndarray, rounds: int = 2) -> np.ndarray:
    """A closed polygon with its corners cut (Chaikin), `rounds` times."""
    for _ in range(rounds):
        after = np.roll(points, -1, axis=0)
        points = np.stack([0.75 * points + 0.25 * after, 0.25 * points + 0.75 * after], axis=1)
        points = points.reshape(-1, 2)
    return points


def background(draw: Draw, size: int) -> np.ndarray:
    """A background: a gradient or cloudy ground with shapes, in or out of focus; uint8."""
    rng = draw.rng
    kind = draw.choose({"plain": 0.2, "cloudy": 0.3, "busy": 0.5})
    ground = np.array(any_colour(draw), np.float32)
    if kind == "plain":
        corners = ground + rng.normal(0, 14, (2, 2, 1)) + rng.normal(0, 5, (2, 2, 3))
    else:
        n = int(rng.integers(3, 9))
        corners = ground + rng.normal(0, 38, (n, n, 1)) + rng.normal(0, 12, (n, n, 3))
    picture = cv2.resize(corners.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    picture = np.clip(picture, 0, 255).astype(np.uint8)
    if kind == "busy":
        for _ in range(int(rng.integers(4, 16))):
            _shape(picture, draw, size)
        side = 2 * round(draw.uniform(0.0, 0.05) * size) + 1
        if side > 1:
            picture = cv2.blur(cv2.blur(picture, (side, side)), (side, side))
    return picture


def _shape(picture: np.ndarray, draw: Draw, size: int) -> None:
    rng = draw.rng
    colour = any_colour(draw)
    x, y = rng.uniform(-0.1, 1.1, 2) * size
    w, h = rng.uniform(0.04, 0.5, 2) * size
    kind = int(rng.integers(4))
    if kind == 0:
        polygon(
            picture,
            np.array([(x - w, y - h), (x + w, y - h), (x + w, y + h), (x - w, y + h)]),
            colour,
        )
    elif kind == 1:
        t = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        polygon(picture, np.stack([x + w * np.cos(t), y + h * np.sin(t)], axis=1), colour)
    elif kind == 2:
        polygon(picture, np.array([x, y]) + rng.normal(0, 0.25 * size, (4, 2)), colour)
    else:
        ends = np.round(rng.uniform(-0.1, 1.1, (2, 2)) * size * 16).astype(int)
        thick = max(1, round(draw.uniform(0.005, 0.06) * size))
        cv2.line(picture, ends[0].tolist(), ends[1].tolist(), colour, thick, cv2.LINE_AA, _SHIFT)


def body(picture: np.ndarray, view: View, look: Look, light: Light, draw: Draw) -> None:
    """Shoulders and neck, painted before the head."""
    camera = view.camera
    s = camera.scale
    depth, chin = -0.35, view.head.anatomy.chin_y
    top = camera.project(np.array([0.0, 0.55, depth]))[:2]
    lean = camera.project(np.array([0.0, 1.6, depth]))[:2] - top
    down = 0.55 * lean / np.linalg.norm(lean) + np.array([0.0, 0.45])
    down /= np.linalg.norm(down)
    across = np.array([down[1], -down[0]])
    bright = light.level
    neck = draw.normal(0.66, 0.06) * s
    end = top + down * (chin - 0.42) * s
    skin = shade(look.skin, bright * 0.78)
    outline = [top - across * neck, top + across * neck, end + across * neck * 1.05]
    flare = end + down * 0.5 * s
    outline += [
        flare + across * neck * 1.6,
        flare - across * neck * 1.6,
        end - across * neck * 1.05,
    ]
    polygon(picture, np.array(outline), skin)
    # The jaw's shadow on the neck.
    jaw = camera.project(view.head.lift(view.head.jaw))[:, :2]
    shadow = np.concatenate([jaw[4:-4] + down * 0.16 * s, jaw[-5:3:-1]])
    left, top_row = (max(int(edge) - 1, 0) for edge in shadow.min(axis=0))
    right, bottom_row = (max(int(edge) + 2, 0) for edge in shadow.max(axis=0))
    area = picture[top_row:bottom_row, left:right]
    if area.size:
        dark = area.copy()
        polygon(dark, shadow - (left, top_row), shade(skin, 0.55))
        area[:] = cv2.addWeighted(dark, 0.6, area, 0.4, 0)
    cloth = shade(any_colour(draw, 15, 225), min(bright, 1.0))
    wide = draw.normal(2.25, 0.2) * s
    collar = end + down * draw.uniform(0.0, 0.35) * s
    deep = down * draw.uniform(0.1, 0.7) * s
    shoulders = [
        collar - across * neck * 1.12,
        collar + deep,
        collar + across * neck * 1.12,
        collar + across * wide * 0.75 + down * 0.32 * s,
        collar + across * wide + down * 0.8 * s,
        collar + across * wide + down * 5 * s,
        collar - across * wide + down * 5 * s,
        collar - across * wide + down * 0.8 * s,
        collar - across * wide * 0.75 + down * 0.32 * s,
    ]
    polygon(picture, smooth(np.array(shoulders), 1), cloth)


def back_hair(picture: np.ndarray, view: View, look: Look, light: Light, draw: Draw) -> None:
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
    rows = max(picture.shape[0] // 16, 2)
    grains = draw.rng.normal(1.0, 0.16, (rows, picture.shape[1] // 2)).astype(np.float32)
    streaks = cv2.resize(grains, picture.shape[1::-1])[..., None]
    changed = (layer != picture).any(axis=-1, keepdims=True)
    picture[:] = np.where(changed, np.clip(layer * streaks, 0, 255), picture).astype(np.uint8)


_ROUND = np.linspace(0, 2 * np.pi, 18, endpoint=False)


def ears(picture: np.ndarray, view: View, look: Look, light: Light, near: bool) -> None:
    """The ears that are painted after (`near`) or before the head."""
    if look.style == "long":
        return
    width = view.head.anatomy.identity.width
    y = 0.20 - 0.36 * np.sin(_ROUND)
    z = -0.10 - 0.19 * np.cos(_ROUND) * (0.75 + 0.35 * np.sin(_ROUND))
    for side in (-1, 1):
        outward = view.camera.rotation @ np.array([side, 0.0, 0.25])
        if (float(outward[2]) > 0.0) != near:
            continue
        # The back of an ear stands off the head.
        x = side * (width * 0.985 + 0.09 - 0.45 * (z + 0.10))
        outline = view.camera.project(np.stack([x, y, z], axis=1))[:, :2]
        skin = mix(shade(look.skin, 0.9 * light.level), (190, 90, 80), 0.10)
        polygon(picture, outline, skin)
        middle = outline.mean(axis=0)
        polygon(picture, middle + 0.62 * (outline - middle), shade(skin, 0.74))
        polygon(picture, middle + 0.35 * (outline - middle), shade(skin, 0.9))


def over(picture: np.ndarray, layer: Layer) -> None:
    """Put the head over what is behind it, in place."""
    ground = picture[layer.window].astype(np.float32)
    ground += (layer.colour - ground) * layer.alpha[..., None]
    picture[layer.window] = np.clip(ground, 0, 255, out=ground)
