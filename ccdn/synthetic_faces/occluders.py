"""What comes between camera and face: glasses, masks, hands, and things."""

from __future__ import annotations

import cv2
import numpy as np

from ccdn.data.occlusion import Placement, paint_occluder
from ccdn.data.shapes import SHIFT, Colour, in_sixteenths, polygon, shade
from ccdn.synthetic_faces.camera import View
from ccdn.synthetic_faces.cloth import wear
from ccdn.synthetic_faces.look import Light, Look, any_colour
from ccdn.synthetic_faces.parameters import RandomStream
from ccdn.synthetic_faces.render import Layer


def glasses(picture: np.ndarray, view: View, layer: Layer, draw: RandomStream) -> np.ndarray:
    """Put spectacles or sunglasses on one face in five; returns what they hide, (H, W) bool."""
    hidden = np.zeros(picture.shape[:2], bool)
    if not draw.chance(0.22):
        return hidden
    dark = draw.chance(0.2)
    head, camera = view.head, view.camera
    i = head.anatomy.identity
    rx, ry = draw.uniform(0.24, 0.31), draw.uniform(0.15, 0.24)
    power = draw.uniform(0.5, 1.0)
    frame = shade(any_colour(draw, 10, 120), 0.6) if draw.chance(0.8) else (190, 170, 120)
    thick = max(1, round(draw.uniform(0.02, 0.07) * camera.scale))
    front = float(head.lift(np.array([[i.eye_x, 0.0]]))[0, 2]) + 0.16
    drop = draw.uniform(0.0, 0.08)
    tint = draw.uniform(0.86, 0.98) if dark else 0.08 * draw.chance(0.5)
    lens = shade(frame, 0.5) if dark else (255.0, 255.0, 255.0)

    def bent(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return camera.project(np.stack([x, y, front + 0.10 - 0.28 * x**2], axis=1))

    centre = max(i.eye_x, rx + 0.08)
    x, y = (np.sign(f) * np.abs(f) ** power for f in _RIM)
    rims = [bent(side * centre + rx * x, drop + ry * y) for side in (-1, 1)]
    gap = centre - rx
    bridge = bent(np.linspace(-gap, gap, 5), drop - 0.3 * ry * np.ones(5))
    for side in (-1, 1):
        if float((camera.rotation @ np.array([side, 0.0, -0.2]))[2]) > 0:
            edge = centre + rx
            arm = np.array(
                [(side * edge, drop - 0.3 * ry, front - 0.28 * edge**2 + 0.1),
                 (side * i.width * 1.06, drop - 0.02, -0.1)]
            )  # fmt: skip
            ends = in_sixteenths(camera.project(arm)[:, :2]).tolist()
            cv2.line(picture, ends[0], ends[1], frame, thick, cv2.LINE_AA, SHIFT)
    # All else lies around the rims.
    around = np.concatenate(rims)[:, :2]
    low = np.maximum(np.floor(around.min(axis=0)).astype(int) - thick - 1, 0)
    high = np.maximum(np.ceil(around.max(axis=0)).astype(int) + thick + 2, 0)
    area = (slice(low[1], high[1]), slice(low[0], high[0]))
    ground = picture[area]
    if not ground.size:
        return hidden
    for rim in rims:
        # The far lens goes behind the nose.
        before = layer.depth[area] < float(rim[:, 2].mean()) + 0.16
        glass, ring = np.zeros((2, *before.shape), np.uint8)
        outline = rim[:, :2] - low
        polygon(glass, outline, (255,))
        glass *= before
        if dark:
            hidden[area] |= glass > 127
        _put(ground, lens, glass, tint)
        cv2.polylines(ring, [in_sixteenths(outline)], True, 255, thick, cv2.LINE_AA, SHIFT)
        _put(ground, frame, ring * before, 1.0)
    line = in_sixteenths(bridge[:, :2] - low)
    cv2.polylines(ground, [line], False, frame, thick, cv2.LINE_AA, SHIFT)
    return hidden


_T = np.linspace(0, 2 * np.pi, 28, endpoint=False)
_RIM = (np.cos(_T), np.sin(_T))


def _put(ground: np.ndarray, colour: Colour, mask: np.ndarray, share: float) -> None:
    """Blend a colour in where a mask (h, w) uint8 says, in place."""
    weight = mask * np.float32(share / 255)
    over = np.empty(ground.shape, np.uint8)
    over[:] = colour
    ground[:] = cv2.blendLinear(over, np.ascontiguousarray(ground), weight, 1 - weight)


# What is put before a face, and how often.
SHARES = {
    "mask": 0.12,
    "hand": 0.38,
    "scarf": 0.10,
    "phone": 0.09,
    "cup": 0.08,
    "microphone": 0.07,
    "paper": 0.05,
    "bar": 0.04,
    "cloth": 0.07,
}


def occlude(
    picture: np.ndarray,
    view: View,
    layer: Layer,
    look: Look,
    light: Light,
    draw: RandomStream,
    share: float,
) -> np.ndarray:
    """Put something before `share` of the faces; returns what it hides, (H, W) bool."""
    if not draw.chance(share):
        return np.zeros(picture.shape[:2], bool)
    kind = draw.choose(SHARES)
    if kind in ("mask", "scarf"):
        return wear(picture, view, layer, look, light, draw, scarf=kind == "scarf")
    rng, unit = draw.rng, view.camera.scale
    flat = view.pixels[:, :2]
    # What is drunk from or spoken into is before the mouth, everything else anywhere.
    first, last = (76, 96) if kind in ("cup", "microphone") else (0, 96)
    middle = flat[int(rng.integers(first, last))] + rng.normal(0, 0.2, 2) * unit
    out = middle - flat.mean(axis=0)
    # Arms come from below or from the side on which the thing is.
    turn = np.arctan2(out[1] + 0.5 * unit, out[0]) + draw.normal(0.0, 0.4)
    place = Placement(
        middle, np.array([np.cos(turn), np.sin(turn)]), unit * draw.uniform(0.85, 1.1)
    )
    own = shade(look.skin, draw.uniform(0.85, 1.05))
    hidden = paint_occluder(picture, kind, place, own, rng, min(light.level, 1.1))
    return hidden > 127
