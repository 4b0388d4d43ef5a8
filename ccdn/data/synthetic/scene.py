"""What is behind and around the head: background, shoulders, neck, long hair, ears."""

from __future__ import annotations

import cv2
import numpy as np

from ccdn.data.synthetic.camera import View
from ccdn.data.synthetic.parameters import Draw
from ccdn.data.synthetic.render import Layer, Light
from ccdn.data.synthetic.skin import Look, mix, shade

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


def _any_colour(draw: Draw, low: float = 10, high: float = 245) -> tuple[float, float, float]:
    grey = draw.uniform(low, high)
    r, g, b = (float(np.clip(grey + draw.normal(0, 38), 0, 255)) for _ in range(3))
    return (r, g, b)


def background(draw: Draw, size: int) -> np.ndarray:
    """A background: a gradient or cloudy ground with shapes, in or out of focus; uint8."""
    rng = draw.rng
    kind = draw.choose({"plain": 0.2, "cloudy": 0.3, "busy": 0.5})
    ground = np.array(_any_colour(draw), np.float32)
    if kind == "plain":
        corners = ground + rng.normal(0, 14, (2, 2, 3)).astype(np.float32)
    else:
        n = int(rng.integers(3, 9))
        corners = ground + rng.normal(0, 42, (n, n, 3)).astype(np.float32)
    picture = cv2.resize(corners, (size, size), interpolation=cv2.INTER_CUBIC)
    picture = np.clip(picture, 0, 255).astype(np.uint8)
    if kind == "busy":
        for _ in range(int(rng.integers(4, 16))):
            _shape(picture, draw, size)
        blur = draw.uniform(0.0, 0.035) * size
        if blur > 0.5:
            picture = cv2.GaussianBlur(picture, (0, 0), blur)
    return picture


def _shape(picture: np.ndarray, draw: Draw, size: int) -> None:
    rng = draw.rng
    colour = _any_colour(draw)
    x, y = rng.uniform(-0.1, 1.1, 2) * size
    w, h = rng.uniform(0.04, 0.5, 2) * size
    kind = int(rng.integers(4))
    if kind == 0:
        polygon(picture, np.array([(x - w, y - h), (x + w, y - h), (x + w, y + h), (x - w, y + h)]), colour)
    elif kind == 1:
        t = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        polygon(picture, np.stack([x + w * np.cos(t), y + h * np.sin(t)], axis=1), colour)
    elif kind == 2:
        polygon(picture, np.array([x, y]) + rng.normal(0, 0.25 * size, (4, 2)), colour)
    else:
        ends = np.round(rng.uniform(-0.1, 1.1, (2, 2)) * size * 16).astype(int)
        thick = max(1, round(draw.uniform(0.005, 0.06) * size))
        cv2.line(picture, ends[0].tolist(), ends[1].tolist(), colour, thick, cv2.LINE_AA, _SHIFT)


def _side_light(light: Light) -> float:
    """Brightness of a surface that looks at the camera."""
    return float(np.mean(light.ambient + light.colour * max(light.towards[2], 0.0)) + 0.5 * light.fill)


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
    bright = _side_light(light)
    neck = draw.normal(0.66, 0.06) * s
    end = top + down * (chin + 0.25) * s
    skin = shade(look.skin, bright * 0.78)
    outline = [top - across * neck, top + across * neck, end + across * neck * 1.05]
    flare = end + down * 0.5 * s
    outline += [flare + across * neck * 1.6, flare - across * neck * 1.6, end - across * neck * 1.05]
    polygon(picture, np.array(outline), skin)
    # The jaw's shadow on the neck.
    jaw = camera.project(view.head.lift(view.head.jaw))[:, :2]
    shadow = np.concatenate([jaw[4:-4] + down * 0.16 * s, jaw[-5:3:-1]])
    dark = picture.copy()
    polygon(dark, shadow, shade(skin, 0.55))
    cv2.addWeighted(dark, 0.6, picture, 0.4, 0, dst=picture)
    cloth = shade(_any_colour(draw, 15, 225), min(bright, 1.0))
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
    colour = shade(look.hair, 0.75 * _side_light(light))
    outline = smooth(view.camera.project(points)[:, :2])
    layer = picture.copy()
    polygon(layer, outline, colour)
    rows = max(picture.shape[0] // 16, 2)
    grains = draw.rng.normal(1.0, 0.16, (rows, picture.shape[1] // 2)).astype(np.float32)
    streaks = cv2.resize(grains, picture.shape[1::-1])[..., None]
    changed = (layer != picture).any(axis=-1, keepdims=True)
    picture[:] = np.where(changed, np.clip(layer * streaks, 0, 255), picture).astype(np.uint8)


def ears(
    picture: np.ndarray, layer: Layer | None, view: View, look: Look, light: Light, near: bool
) -> None:
    """The ears that belong before (`near`) or behind the head in painting order."""
    if look.style == "long":
        return
    turned = view.camera.rotation
    width = view.head.anatomy.identity.width
    bright = _side_light(light)
    for side in (-1, 1):
        # The outward direction of the ear, seen from the camera.
        faces = float((turned @ np.array([side, 0.0, 0.25]))[2]) > 0.0
        if faces != near:
            continue
        t = np.linspace(0, 2 * np.pi, 18, endpoint=False)
        y = 0.18 - 0.36 * np.sin(t)
        lobe = 0.75 + 0.35 * np.sin(t)
        z = -0.12 - 0.17 * np.cos(t) * lobe
        x = side * (width * 0.985 + 0.12 - 0.5 * (z + 0.12) * 0.55)
        rim = np.stack([x, y, z], axis=1)
        outline = view.camera.project(rim)[:, :2]
        skin = mix(shade(look.skin, 0.95 * bright), (190, 90, 80), 0.12)
        polygon(picture, outline, skin)
        inner = outline.mean(axis=0) + 0.55 * (outline - outline.mean(axis=0))
        polygon(picture, inner, shade(skin, 0.72))
    del layer


def over(picture: np.ndarray, layer: Layer) -> np.ndarray:
    """The head over what is behind it."""
    ground = picture.astype(np.float32)
    mixed = ground + (layer.colour - ground) * layer.alpha[..., None]
    return np.clip(mixed, 0, 255).astype(np.uint8)
