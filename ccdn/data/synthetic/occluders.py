"""What comes between camera and face: glasses, hands, cloth, and things."""

from __future__ import annotations

import cv2
import numpy as np

from ccdn.data.synthetic.camera import View
from ccdn.data.synthetic.look import Look, any_colour, shade
from ccdn.data.synthetic.parameters import Draw
from ccdn.data.synthetic.render import Layer
from ccdn.data.synthetic.scene import polygon, smooth


def glasses(picture: np.ndarray, view: View, layer: Layer, draw: Draw) -> np.ndarray:
    """Put spectacles or sunglasses on one face in five; returns what they hide, (H, W) bool."""
    hidden = np.zeros(picture.shape[:2], bool)
    if not draw.chance(0.2):
        return hidden
    dark = draw.chance(0.3)
    head, camera = view.head, view.camera
    i = head.anatomy.identity
    rx, ry = draw.uniform(0.24, 0.31), draw.uniform(0.15, 0.24)
    power = draw.uniform(0.5, 1.0)
    frame = shade(any_colour(draw, 10, 120), 0.6) if draw.chance(0.8) else (190, 170, 120)
    thick = max(1, round(draw.uniform(0.02, 0.07) * camera.scale))
    t = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    front = float(head.lift(np.array([[i.eye_x, 0.0]]))[0, 2]) + 0.16
    drop = draw.uniform(0.0, 0.08)
    work = picture.copy()

    def bent(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return camera.project(np.stack([x, y, front + 0.10 - 0.28 * x**2], axis=1))

    for side in (-1, 1):
        cx = side * max(i.eye_x, rx + 0.08)
        x = cx + rx * np.sign(np.cos(t)) * np.abs(np.cos(t)) ** power
        y = drop + ry * np.sign(np.sin(t)) * np.abs(np.sin(t)) ** power
        rim = bent(x, y)
        glass = np.zeros(picture.shape[:2], np.uint8)
        polygon(glass, rim[:, :2], (255,))
        # The far lens goes behind the nose.
        before = layer.depth < float(rim[:, 2].mean()) + 0.16
        if dark:
            work[(glass > 127) & before] = shade(frame, 0.5)
            hidden |= (glass > 127) & before
        elif draw.chance(0.5):
            sheen = ((glass > 127) & before)[..., None]
            work = np.where(sheen, np.clip(work.astype(np.int16) + 14, 0, 255), work).astype(
                np.uint8
            )
        ring = np.zeros(picture.shape[:2], np.uint8)
        fixed = np.round(rim[:, :2] * 16).astype(np.int32)
        cv2.polylines(ring, [fixed], True, 255, thick, cv2.LINE_AA, 4)
        weight = (ring * before)[..., None].astype(np.float32) / 255
        work = (work + (np.asarray(frame, np.float32) - work) * weight).astype(np.uint8)
        if float((camera.rotation @ np.array([side, 0.0, -0.2]))[2]) > 0:
            arm = np.array(
                [(cx + side * rx, drop - 0.3 * ry, front - 0.28 * (abs(cx) + rx) ** 2 + 0.1),
                 (side * i.width * 1.06, drop - 0.02, -0.1)]
            )  # fmt: skip
            ends = np.round(camera.project(arm)[:, :2] * 16).astype(int).tolist()
            cv2.line(work, ends[0], ends[1], frame, thick, cv2.LINE_AA, 4)
    gap = max(i.eye_x, rx + 0.08) - rx
    bridge = bent(np.linspace(-gap, gap, 5), drop - 0.3 * ry * np.ones(5))
    line = np.round(bridge[:, :2] * 16).astype(np.int32)
    cv2.polylines(work, [line], False, frame, thick, cv2.LINE_AA, 4)
    picture[:] = work
    return hidden


def occlude(picture: np.ndarray, view: View, look: Look, draw: Draw, share: float) -> np.ndarray:
    """Put something before `share` of the faces; returns what it hides, (H, W) bool."""
    hidden = np.zeros(picture.shape[:2], np.uint8)
    if not draw.chance(share):
        return hidden > 0
    kind = draw.choose({"hand": 0.3, "scarf": 0.2, "bar": 0.15, "thing": 0.35})
    if kind == "hand":
        _hand(picture, hidden, view, look, draw)
    elif kind == "scarf":
        _scarf(picture, hidden, view, draw)
    else:
        _thing(picture, hidden, view, draw, bar=kind == "bar")
    return hidden > 127


def _scarf(picture: np.ndarray, hidden: np.ndarray, view: View, draw: Draw) -> None:
    """Cloth over mouth and chin, fitted to the head."""
    head = view.head
    an = head.anatomy
    top = draw.uniform(an.tip_y - 0.05, an.mouth_y - 0.05)
    x = np.linspace(-0.97, 0.97, 13)
    y = top + 0.20 * np.abs(x) ** 2 * draw.uniform(-1.0, 0.6)
    upper = head.lift(np.stack([x * head.half_width(y), y], axis=1))
    upper[:, 2] += 0.04
    lower = head.jaw[29:3:-2]
    edge = head.lift(lower * np.array([1.05, 1.0]) + np.array([0.0, 0.10 * draw.uniform(0.3, 1.5)]))
    around = view.camera.project(np.concatenate([upper, edge]))[:, :2].astype(np.float32)
    # Turned far, the outline itself would cross over.
    outline = cv2.convexHull(around)[:, 0]
    colour = any_colour(draw)
    polygon(picture, outline, colour)
    polygon(hidden, outline, (255,))
    for _ in range(3):
        a, b = draw.rng.integers(0, 13, 2)
        middle = edge.mean(axis=0)
        fold = view.camera.project(np.stack([upper[a], 0.5 * middle + 0.5 * upper[b]]))[:, :2]
        ends = np.round(fold * 16).astype(int).tolist()
        cv2.line(picture, ends[0], ends[1], shade(colour, 0.75), 1, cv2.LINE_AA, 4)


def _hand(picture: np.ndarray, hidden: np.ndarray, view: View, look: Look, draw: Draw) -> None:
    """A palm and fingers laid on a part of the face."""
    s = view.camera.scale
    flat = view.pixels[:, :2]
    target = flat[int(draw.rng.integers(0, 96))] + draw.rng.normal(0, 0.15, 2) * s
    middle = flat.mean(axis=0)
    turn = np.arctan2(*(target - middle)[::-1]) + draw.normal(0.0, 0.4)
    reach = np.array([np.cos(turn), np.sin(turn)])
    across = np.array([-reach[1], reach[0]])
    palm = target + reach * 0.75 * s
    skin = shade(look.skin, draw.uniform(0.6, 1.0))
    width = draw.uniform(0.13, 0.18) * s
    fan = draw.uniform(0.0, 0.35)

    def capsule(start: np.ndarray, end: np.ndarray, radius: float) -> None:
        ends = np.round(np.stack([start, end]) * 16).astype(int).tolist()
        thick = max(1, round(2 * radius))
        cv2.line(picture, ends[0], ends[1], shade(skin, 0.62), thick + 2, cv2.LINE_AA, 4)
        cv2.line(picture, ends[0], ends[1], skin, thick, cv2.LINE_AA, 4)
        cv2.line(hidden, ends[0], ends[1], 255, thick + 2, cv2.LINE_AA, 4)

    capsule(palm + reach * 2.5 * s, palm + reach * 0.2 * s, 2.0 * width)
    for finger in range(4):
        place = (finger - 1.5) * 2.0 * width
        bend = (finger - 1.5) * fan
        length = (1.0 - 0.12 * abs(finger - 1.3)) * 0.75 * s
        root = palm + across * place
        capsule(root, root - (reach - across * bend) * length, width * 0.95)
    corners = [palm - across * 4 * width, palm + across * 4 * width]
    corners += [
        palm + across * 3 * width + reach * 0.8 * s,
        palm - across * 3 * width + reach * 0.8 * s,
    ]
    outline = smooth(np.array(corners), 2)
    polygon(picture, outline, skin)
    polygon(hidden, outline, (255,))


def _thing(picture: np.ndarray, hidden: np.ndarray, view: View, draw: Draw, bar: bool) -> None:
    """A bar across the face, or a blob, board or cup in front of a part of it."""
    rng, s = draw.rng, view.camera.scale
    flat = view.pixels[:, :2]
    middle = flat[int(rng.integers(0, 96))] + rng.normal(0, 0.3, 2) * s
    turn = draw.uniform(0, np.pi)
    along = np.array([np.cos(turn), np.sin(turn)])
    across = np.array([-along[1], along[0]])
    if bar:
        long, wide = 8 * s, draw.uniform(0.06, 0.28) * s
        ends = (along * long, -along * long)
        sides = (across * wide, -across * wide)
        corners = [ends[0] + sides[0], ends[0] + sides[1], ends[1] + sides[1], ends[1] + sides[0]]
        outline = np.array(corners) + middle
    else:
        n = int(rng.integers(4, 9))
        t = np.sort(rng.uniform(0, 2 * np.pi, n))
        radius = rng.uniform(0.25, 0.75, n)[:, None] * s
        outline = middle + radius * np.stack([np.cos(t), np.sin(t)], axis=1)
        outline = smooth(outline, int(rng.integers(0, 3)))
    colour = any_colour(draw)
    polygon(picture, outline, colour)
    polygon(hidden, outline, (255,))
    stripe = shade(colour, draw.uniform(0.5, 1.4))
    inside = hidden > 127
    pattern = int(rng.integers(3))
    if pattern:
        rows, columns = np.indices(hidden.shape)
        phase = (columns * along[0] + rows * along[1]) / (draw.uniform(0.06, 0.3) * s)
        chosen = inside & (np.floor(phase).astype(int) % (pattern + 1) == 0)
        picture[chosen] = stripe
