"""Things that come between a camera and a face, painted into a picture of any size: hands, phones,
cups, microphones, sheets of paper, bars, and pieces of patterned cloth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ccdn.data.images import cv2
from ccdn.data.shapes import SHIFT, Colour, in_sixteenths, polygon, shade, smooth, tube

_CIRCLE = np.stack([f(np.linspace(0, 2 * np.pi, 20, endpoint=False)) for f in (np.cos, np.sin)], 1)
_FINGERS = (0.80, 0.98, 0.92, 0.70)  # lengths, from the thumb's side
_THIRDS = (0.0, 0.4, 0.7, 1.0)  # joints along a finger
_SIDES = np.array([[1.0], [-1.0]])
_NOISE = 24  # grains along a side of a picture


@dataclass(frozen=True)
class Placement:
    """Where a thing is: its middle and the way in which an arm would leave the picture, and how
    long a head unit (about 7 cm) is there; pixels.
    """

    middle: np.ndarray  # (2,)
    away: np.ndarray  # (2,), a unit vector
    unit: float

    def __call__(self, across: float, along: float) -> np.ndarray:
        """The pixel that lies so many units across and along `away` from the middle, (2,)."""
        x, y = self.away
        return self.middle + self.unit * np.array([along * x - across * y, along * y + across * x])

    def outline(self, corners: list[tuple[float, float]]) -> np.ndarray:
        """The pixels of several such places, (n, 2)."""
        return np.array([self(across, along) for across, along in corners])


@dataclass(frozen=True)
class _Sheet:
    """Colours of a thing and where it is; the edges of both are smooth."""

    colour: np.ndarray
    mask: np.ndarray

    def fill(self, points: np.ndarray, colour: Colour) -> None:
        polygon(self.colour, points, colour)
        polygon(self.mask, points, (255,))

    def tube(self, points: np.ndarray, radii: np.ndarray, colour: Colour) -> None:
        tube(self.colour, points, radii, colour)
        tube(self.mask, points, radii, (255,))


def paint_occluder(
    picture: np.ndarray,
    kind: str,
    place: Placement,
    skin: Colour,
    random: np.random.Generator,
    bright: float = 1.0,
) -> np.ndarray:
    """Paint a thing of KINDS into a picture (H, W, 3) uint8, in place; returns its mask (H, W)
    uint8, 255 where it hides what is behind.

    `skin` is the colour of a hand, `bright` the light on the thing, a factor.
    """
    sheet = _Sheet(np.empty_like(picture), np.zeros(picture.shape[:2], np.uint8))
    sheet.colour[:] = skin
    KINDS[kind](sheet, place, skin, random)
    x, y, width, height = cv2.boundingRect(sheet.mask)
    if not width:
        return sheet.mask
    area = (slice(y, y + height), slice(x, x + width))
    colour, mask = sheet.colour[area], sheet.mask[area]
    # Light falls off to one side, and no surface is even.
    turn, slope = random.uniform(0, 2 * np.pi), random.uniform(0.05, 0.35) / place.unit
    rows, columns = np.ogrid[y : y + height, x : x + width]
    across = (columns - place.middle[0]) * np.cos(turn) + (rows - place.middle[1]) * np.sin(turn)
    grain = random.normal(0, 0.05, (_NOISE, _NOISE)).astype(np.float32)
    factor = np.clip(bright * (1 + slope * across), 0.45 * bright, 1.35 * bright)
    factor = factor.astype(np.float32) * (1 + cv2.resize(grain, (width, height)))
    lit = cv2.multiply(colour, cv2.merge((factor,) * 3), dtype=cv2.CV_8U)
    weight = mask * np.float32(1 / 255)
    picture[area] = cv2.blendLinear(lit, np.ascontiguousarray(picture[area]), weight, 1 - weight)
    return sheet.mask


def _any_colour(random: np.random.Generator, low: float = 15, high: float = 235) -> Colour:
    """A colour of things: most are dull, some are not."""
    spread = 45.0 if random.random() < 0.35 else 13.0
    r, g, b = np.clip(random.uniform(low, high) + random.normal(0, spread, 3), 0, 255).tolist()
    return (r, g, b)


def _pattern(
    sheet: _Sheet, inside: np.ndarray, place: Placement, random: np.random.Generator
) -> None:
    """Stripes, checks, dots or none over a polygon (n, 2) of the sheet."""
    kind = int(random.integers(4))
    if kind == 3:
        return
    area = np.zeros_like(sheet.mask)
    polygon(area, inside, (255,))
    pitch = random.uniform(0.07, 0.3) * place.unit
    turn = random.uniform(0, np.pi)
    rows, columns = np.ogrid[: area.shape[0], : area.shape[1]]
    first = (columns * np.cos(turn) + rows * np.sin(turn)) / pitch
    second = (rows * np.cos(turn) - columns * np.sin(turn)) / pitch
    if kind == 2:
        chosen = (first % 1 - 0.5) ** 2 + (second % 1 - 0.5) ** 2 < random.uniform(0.03, 0.12)
    else:
        chosen = first % 1 < random.uniform(0.2, 0.6)
        if kind == 1:
            chosen = chosen ^ (second % 1 < 0.5)
    sheet.colour[chosen & (area > 127)] = _any_colour(random)


# ---- hands -------------------------------------------------------------------------------------


def _finger(sheet: _Sheet, joints: np.ndarray, radius: float, skin: Colour, nail: bool) -> None:
    """A finger along its joints (4, 2): outline, flesh, a lighter middle, creases, and a nail."""
    way = in_sixteenths(joints)

    def stroke(picture: np.ndarray, share: float, colour: Colour, more: float = 0.0) -> None:
        for part, thinner in ((way, 0.86), (way[:3], 1.0)):
            thick = max(1, round(2 * (share * thinner * radius + more)))
            cv2.polylines(picture, [part], False, colour, thick, cv2.LINE_AA, SHIFT)

    rim = max(0.5, 0.07 * radius)
    stroke(sheet.colour, 1.0, shade(skin, 0.72), rim)
    stroke(sheet.mask, 1.0, (255.0,) * 3, rim)
    stroke(sheet.colour, 1.0, skin)
    shine = max(1, round(0.8 * radius))
    cv2.polylines(sheet.colour, [way], False, shade(skin, 1.07), shine, cv2.LINE_AA, SHIFT)
    if radius < 2:
        return
    along = joints[1:] - joints[:-1]
    along = along / np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-6)[:, None]
    normal = along[:, ::-1] * (-1.0, 1.0)
    creases = in_sixteenths(joints[1:3, None] + 0.6 * radius * normal[1:, None] * _SIDES)
    cv2.polylines(sheet.colour, list(creases), False, shade(skin, 0.86), 1, cv2.LINE_AA, SHIFT)
    if nail:
        shape = (
            0.55 * radius * _CIRCLE[::2, :1] * along[2]
            + 0.45 * radius * _CIRCLE[::2, 1:] * normal[2]
        )
        r, g, b = shade(skin, 1.12)
        polygon(sheet.colour, joints[3] + 0.2 * radius * along[2] + shape, (r, 0.94 * g, 0.94 * b))


def _arm(sheet: _Sheet, place: Placement, skin: Colour, random: np.random.Generator) -> None:
    """A wrist and, mostly, a sleeve, from the palm out of the picture."""
    wrist = np.array([place(0, 1.0), place(0, 1.9), place(random.uniform(-0.6, 0.6), 6.0)])
    radii = place.unit * np.array([0.36, 0.33, 0.50])
    sheet.tube(wrist, radii + 0.02 * place.unit, shade(skin, 0.6))
    sheet.tube(wrist, radii, skin)
    if random.random() < 0.7:
        cuff = random.uniform(1.5, 2.2)
        cloth = _any_colour(random)
        sleeve = np.array([place(0, cuff), wrist[2]])
        sheet.tube(sleeve, place.unit * np.array([0.44, 0.66]), cloth)
        rim = place.outline([(-0.45, cuff - 0.1), (0.45, cuff - 0.1)])
        sheet.tube(rim, np.full(2, 0.06 * place.unit), shade(cloth, 0.7))


def _hand(sheet: _Sheet, place: Placement, skin: Colour, random: np.random.Generator) -> None:
    """A hand laid on the face: an arm, a palm, a thumb, and fingers, spread or closed."""
    _arm(sheet, place, skin, random)
    unit, thumb = place.unit, float(random.choice([-1.0, 1.0]))
    palm = [(-0.46, 0.25), (0.46, 0.25), (0.46, 0.7), (0.38, 1.2), (-0.38, 1.2), (-0.46, 0.7)]
    outline = smooth(place.outline(palm))
    middle = outline.mean(axis=0)
    sheet.fill(middle + 1.05 * (outline - middle), shade(skin, 0.62))
    sheet.fill(outline, shade(skin, 0.97))
    reach = [(0.30, 1.0), (0.56, 0.62), (0.72, 0.25), (0.74, -0.08)]
    closed = random.uniform(0.4, 1.0)
    joints = place.outline([(thumb * across * closed, along) for across, along in reach])
    _finger(sheet, joints, 0.15 * unit, skin, True)
    fan, curl = random.uniform(0.0, 0.3), random.uniform(0.55, 1.0)
    nails, size = random.random() < 0.7, random.uniform(0.88, 1.08)
    gap = random.uniform(0.225, 0.26)
    for k in (3, 2, 1, 0):
        start = thumb * (1.5 - k) * gap
        lean = (thumb * (1.5 - k)) * fan
        length = np.cumsum([0.0, 0.46, 0.30 * curl, 0.24 * curl]) * _FINGERS[k] * size
        joints = place.outline([(start + lean * part, 0.34 - part) for part in length.tolist()])
        _finger(sheet, joints, 0.122 * unit, skin, nails)


def _grip(
    sheet: _Sheet, place: Placement, half: float, skin: Colour, random: np.random.Generator
) -> None:
    """Four fingers around something `half` units wide on both sides."""
    side, low = float(random.choice([-1.0, 1.0])), random.uniform(0.0, 0.25)
    for k in (3, 2, 1, 0):
        reach, along = random.uniform(0.50, 0.62) * (0.5 + 0.5 * _FINGERS[k]), low + 0.24 * k
        joints = [(side * (half + 0.10 - part * reach), along - 0.06 * part) for part in _THIRDS]
        _finger(sheet, place.outline(joints), 0.115 * place.unit, skin, True)


# ---- things ------------------------------------------------------------------------------------


def _phone(sheet: _Sheet, place: Placement, skin: Colour, random: np.random.Generator) -> None:
    """A telephone, its back with the lenses to the camera, and the fingers that hold it."""
    case = _any_colour(random, 10, 90) if random.random() < 0.7 else _any_colour(random)
    half, long = 0.52, random.uniform(0.95, 1.1)
    box = [(-half, -long), (half, -long), (half, long), (-half, long)]
    sheet.fill(smooth(_dense(place.outline(box)), 2), shade(case, 0.6))
    inner = [(0.94 * across, 0.97 * along) for across, along in box]
    sheet.fill(smooth(_dense(place.outline(inner)), 2), case)
    shine = [
        (-half + 0.05, -long + 0.1),
        (0.1, -long + 0.1),
        (-0.25, long - 0.1),
        (-half + 0.05, 0.4),
    ]
    polygon(
        sheet.colour, place.outline(shine), shade((case[0] + 8, case[1] + 8, case[2] + 8), 1.12)
    )
    island = [(0.02, -long + 0.08), (0.44, -long + 0.08), (0.44, -long + 0.5), (0.02, -long + 0.5)]
    polygon(sheet.colour, smooth(place.outline(island), 2), shade(case, 0.75))
    for across, along in ((0.13, 0.19), (0.33, 0.19), (0.13, 0.39)):
        lens = place(across, along - long)
        for radius, colour in ((0.085, (20.0, 20.0, 24.0)), (0.04, (60.0, 66.0, 84.0))):
            polygon(sheet.colour, lens + radius * place.unit * _CIRCLE, colour)
    _grip(sheet, place, half, skin, random)


def _dense(corners: np.ndarray) -> np.ndarray:
    """A polygon with a point close to each corner, so that only its corners are cut."""
    after, before = np.roll(corners, -1, axis=0), np.roll(corners, 1, axis=0)
    near = [corners + 0.12 * (before - corners), corners, corners + 0.12 * (after - corners)]
    return np.stack(near, axis=1).reshape(-1, 2)


def _cup(sheet: _Sheet, place: Placement, skin: Colour, random: np.random.Generator) -> None:
    """A cup with a band around it, the fingers that hold it, and its rim towards the mouth."""
    colour = _any_colour(random, 60, 240)
    top, bottom, tall = random.uniform(0.42, 0.55), random.uniform(0.30, 0.42), 1.25
    body = [(-top, 0.0), (top, 0.0), (bottom, tall), (-bottom, tall)]
    sheet.fill(place.outline(body), colour)
    light = [(-0.6 * top, 0.0), (-0.2 * top, 0.0), (-0.2 * bottom, tall), (-0.6 * bottom, tall)]
    polygon(sheet.colour, place.outline(light), shade(colour, 1.12))
    dark = [(0.65 * top, 0.0), (top, 0.0), (bottom, tall), (0.65 * bottom, tall)]
    polygon(sheet.colour, place.outline(dark), shade(colour, 0.72))
    if random.random() < 0.6:
        band = [
            (-top + 0.03, 0.35),
            (top - 0.03, 0.35),
            (bottom + 0.05, 0.85),
            (-bottom - 0.05, 0.85),
        ]
        polygon(sheet.colour, place.outline(band), _any_colour(random))
    rim = place.outline([(top * x, 0.14 * y) for x, y in _CIRCLE.tolist()])
    sheet.fill(rim, shade(colour, 1.15))
    middle = rim.mean(axis=0)
    polygon(sheet.colour, middle + 0.86 * (rim - middle), shade(colour, 0.5))
    _grip(sheet, place, 0.5 * (top + bottom), skin, random)


def _microphone(sheet: _Sheet, place: Placement, skin: Colour, random: np.random.Generator) -> None:
    """A ball of wire mesh on a handle that a hand holds."""
    dark = _any_colour(random, 10, 70)
    handle = np.array([place(0, 0.1), place(0, 2.2)])
    sheet.tube(handle, place.unit * np.array([0.17, 0.12]), dark)
    radius = random.uniform(0.26, 0.34)
    ball = place.middle + radius * place.unit * _CIRCLE
    mesh = _any_colour(random, 30, 150)
    sheet.fill(ball, mesh)
    for k in range(-3, 4):
        reach = 0.95 * radius * float(np.sqrt(1 - (k / 4) ** 2))
        for ends in ([(k * radius / 4, -reach), (k * radius / 4, reach)],
                     [(-reach, k * radius / 4), (reach, k * radius / 4)]):  # fmt: skip
            thin = np.full(2, max(0.4, 0.012 * place.unit))
            tube(sheet.colour, place.outline(ends), thin, shade(mesh, 0.55))
    sheet.tube(place.outline([(-0.2, radius), (0.2, radius)]), np.full(2, 0.05 * place.unit), dark)
    low = Placement(place(0, 0.75), place.away, place.unit)
    _grip(sheet, low, 0.14, skin, random)


def _paper(sheet: _Sheet, place: Placement, skin: Colour, random: np.random.Generator) -> None:
    """A sheet or a book with lines of print."""
    colour = _any_colour(random, 170, 245) if random.random() < 0.7 else _any_colour(random)
    half, long = random.uniform(0.45, 1.0), random.uniform(0.5, 1.1)
    lean = random.uniform(-0.1, 0.1)
    sheet.fill(
        place.outline([(-half, -long), (half, -long + lean), (half, long), (-half, long - lean)]),
        colour,
    )
    ink = shade(colour, 0.35)
    thin = np.full(2, random.uniform(0.015, 0.035) * place.unit)
    for along in np.arange(-long + 0.15, long - 0.12, 0.14).tolist():
        end = half * random.uniform(0.2, 0.85)
        tube(sheet.colour, place.outline([(-0.85 * half, along), (end, along)]), thin, ink)
    if random.random() < 0.5:
        holder = Placement(place(half - 0.1, 0.0), place.away, place.unit)
        _grip(sheet, holder, 0.1, skin, random)


def _bar(sheet: _Sheet, place: Placement, skin: Colour, random: np.random.Generator) -> None:
    """A pole, strap or railing across the picture."""
    wide = random.uniform(0.05, 0.24)
    outline = place.outline([(-wide, -9), (wide, -9), (wide, 9), (-wide, 9)])
    colour = _any_colour(random)
    sheet.fill(outline, colour)
    side = place.outline([(0.45 * wide, -9), (wide, -9), (wide, 9), (0.45 * wide, 9)])
    polygon(sheet.colour, side, shade(colour, 0.65))
    if random.random() < 0.5:
        _pattern(sheet, outline, place, random)


def _cloth(sheet: _Sheet, place: Placement, skin: Colour, random: np.random.Generator) -> None:
    """A piece of something without a name: a leaf, a bag, a shoulder."""
    n = int(random.integers(4, 9))
    t = np.sort(random.uniform(0, 2 * np.pi, n))
    radius = random.uniform(0.3, 0.8, n)[:, None] * place.unit
    outline = place.middle + radius * np.stack([np.cos(t), np.sin(t)], axis=1)
    outline = smooth(outline, int(random.integers(1, 3)))
    colour = _any_colour(random)
    sheet.fill(outline, colour)
    _pattern(sheet, outline, place, random)
    middle = outline.mean(axis=0)
    for _ in range(3):
        fold = np.stack([middle, outline[int(random.integers(len(outline)))]])
        tube(sheet.colour, fold, place.unit * np.array([0.05, 0.015]), shade(colour, 0.78))


KINDS: dict[str, Callable[[_Sheet, Placement, Colour, np.random.Generator], None]] = {
    "hand": _hand,
    "phone": _phone,
    "cup": _cup,
    "microphone": _microphone,
    "paper": _paper,
    "bar": _bar,
    "cloth": _cloth,
}
