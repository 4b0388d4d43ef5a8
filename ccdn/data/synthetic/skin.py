"""Painting a face onto its canvas: skin, eyes, brows, nose, lips, beard, hair."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ccdn.data.synthetic.anatomy import Anatomy
from ccdn.data.synthetic.canvas import BOTTOM, REACH, TOP, Canvas, Colour, ellipse
from ccdn.data.synthetic.parameters import Draw

_SKIN = np.array(
    [(240, 205, 188), (228, 184, 160), (206, 156, 126), (172, 118, 88), (128, 82, 60), (84, 54, 42)],
    dtype=np.float64,
)
_HAIR: dict[str, tuple[float, Colour]] = {
    "black": (0.30, (26, 22, 22)),
    "dark": (0.27, (52, 36, 28)),
    "brown": (0.20, (92, 62, 42)),
    "blond": (0.13, (186, 150, 98)),
    "grey": (0.06, (150, 148, 146)),
    "red": (0.04, (134, 62, 32)),
}
_IRIS: dict[str, tuple[float, Colour]] = {
    "brown": (0.6, (70, 44, 28)),
    "hazel": (0.15, (104, 86, 50)),
    "blue": (0.15, (86, 120, 150)),
    "green": (0.1, (88, 112, 84)),
}


@dataclass(frozen=True)
class Look:
    """Colours and styles that painting and scene share."""

    skin: Colour
    hair: Colour
    lips: Colour
    iris: Colour
    style: str  # bald, short, parted, fringe or long
    beard: str  # none, stubble, moustache, goatee or full
    age: float  # 0..1: how strongly folds show
    makeup: float  # 0..1
    volume: float  # thickness of the hair, head units


def shade(colour: Colour | np.ndarray, factor: float) -> Colour:
    """A colour made darker or lighter."""
    r, g, b = (float(np.clip(c * factor, 0, 255)) for c in colour)
    return (r, g, b)


def mix(first: Colour | np.ndarray, second: Colour | np.ndarray, share: float) -> Colour:
    """Between two colours, `share` of the second."""
    r, g, b = (float(a + (z - a) * share) for a, z in zip(first, second, strict=True))
    return (r, g, b)


def draw_look(draw: Draw) -> Look:
    """Draw colours and styles."""
    tone = draw.uniform(0, 1) ** 1.15 * (len(_SKIN) - 1)
    low = min(int(tone), len(_SKIN) - 2)
    skin = _SKIN[low] + (tone - low) * (_SKIN[low + 1] - _SKIN[low])
    skin = skin * (1 + np.array([draw.normal(0.0, 0.03) for _ in range(3)]))
    hair_name = draw.choose({name: weight for name, (weight, _) in _HAIR.items()})
    if tone > 3.2:
        hair_name = "black" if draw.chance(0.85) else hair_name
    hair = shade(_HAIR[hair_name][1], draw.uniform(0.75, 1.3))
    iris_name = "brown" if tone > 2.6 else draw.choose({n: w for n, (w, _) in _IRIS.items()})
    feminine = draw.chance(0.5)
    makeup = draw.uniform(0.1, 1.0) if feminine and draw.chance(0.6) else 0.0
    rosy = (196, 84, 88) if makeup < 0.5 else (178, 30, 56)
    lips = mix(shade(skin, 0.86), rosy, 0.28 + 0.35 * makeup + draw.uniform(0, 0.12))
    if feminine:
        style = draw.choose({"short": 0.08, "parted": 0.17, "fringe": 0.25, "long": 0.5})
        beard = "none"
    else:
        style = draw.choose({"bald": 0.16, "short": 0.56, "parted": 0.18, "long": 0.10})
        kinds = {"none": 0.45, "stubble": 0.25, "moustache": 0.08, "goatee": 0.1, "full": 0.12}
        beard = draw.choose(kinds)
    thick = {"bald": 0.0, "short": 0.07, "parted": 0.14, "fringe": 0.15, "long": 0.16}[style]
    return Look(
        skin=shade(skin, 1.0),
        hair=hair,
        lips=lips,
        iris=shade(_IRIS[iris_name][1], draw.uniform(0.8, 1.2)),
        style=style,
        beard=beard,
        age=draw.uniform(0, 1) ** 2,
        makeup=makeup,
        volume=thick * draw.uniform(0.7, 1.5),
    )


def noise(draw: Draw, shape: tuple[int, int], rows: int, columns: int) -> np.ndarray:
    """Smooth noise of mean 0 and deviation about 0.6, `rows` x `columns` grains, float32."""
    grains = draw.rng.standard_normal((rows, columns), dtype=np.float32)
    return cv2.resize(grains, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)


def paint_skin(canvas: Canvas, anatomy: Anatomy, look: Look, draw: Draw) -> None:
    """Blotches, folds, nose, and what make-up is not for the eyes."""
    i, an = anatomy.identity, anatomy
    patches = noise(draw, canvas.shape, 9, 11) * 0.035 + noise(draw, canvas.shape, 70, 80) * 0.025
    ground = canvas.paint.astype(np.float32) * (1 + patches[..., None])
    canvas.paint = np.clip(ground, 0, 255).astype(np.uint8)
    dark = shade(look.skin, 0.45)
    red = mix(look.skin, (190, 70, 60), 0.5)
    for side in (-1, 1):
        canvas.fill(ellipse(side * 0.6, 0.5, 0.26, 0.2), red, 0.12 + 0.35 * look.makeup, 0.09)
        wing = np.array(
            [
                (side * 0.78 * an.nose_half, i.nose_y - 0.20),
                (side * 1.02 * an.nose_half, i.nose_y - 0.13),
                (side * 0.98 * an.nose_half, i.nose_y - 0.04),
                (side * 0.74 * an.nose_half, i.nose_y - 0.01),
            ]
        )
        canvas.line(wing, dark, 0.022, 0.55, 0.008)
        nostril = ellipse(side * 0.42 * an.nose_half, i.nose_y - 0.035, 0.055, 0.026, 12)
        canvas.fill(nostril, shade(look.skin, 0.22), 0.8, 0.006)
        smile = max(0.0, an.smile)
        corner = an.lips("upper_outer", np.array([float(side)]))[0]
        fold = np.array(
            [
                (side * (an.nose_half + 0.03), i.nose_y - 0.12),
                (side * (an.nose_half + 0.11), i.nose_y + 0.04),
                (corner[0] + side * 0.09, corner[1] - 0.09),
                (corner[0] + side * 0.10, corner[1] + 0.05),
            ]
        )
        canvas.line(fold, dark, 0.035, 0.05 + 0.25 * look.age + 0.25 * smile, 0.014)
        canvas.line(an.lid(side, False, np.linspace(0.1, 1, 8), 0.08), dark, 0.03, 0.1 + 0.25 * look.age, 0.012)
    canvas.fill(ellipse(0, an.tip_y, 0.14, 0.12), red, 0.2, 0.04)
    if look.age > 0.3:
        for y in (-0.58, -0.68, -0.78):
            line = np.array([(x, y + 0.02 * draw.normal(0, 1)) for x in np.linspace(-0.4, 0.4, 7)])
            canvas.line(line, dark, 0.02, 0.28 * look.age, 0.008)
    if anatomy.expression.frown > 0.3:
        for side in (-1, 1):
            line = np.array([(side * 0.07, i.brow_y - 0.08), (side * 0.055, i.brow_y + 0.1)])
            canvas.line(line, dark, 0.025, 0.4 * anatomy.expression.frown, 0.008)


def paint_eye(canvas: Canvas, anatomy: Anatomy, look: Look, side: int, draw: Draw) -> None:
    """One eye: lids, white, iris, pupil, glint and lashes."""
    an, i = anatomy, anatomy.identity
    t = np.linspace(0, 1, 12)
    dark = shade(look.skin, 0.42)
    upper, lower = an.lid(side, True, t), an.lid(side, False, t)
    lid = np.concatenate([an.lid(side, True, t, 0.075), upper[::-1]])
    tint = mix(shade(look.skin, 0.7), (90, 70, 110), 0.6 * look.makeup)
    canvas.fill(lid, tint, 0.35 + 0.4 * look.makeup, 0.02)
    canvas.line(an.lid(side, True, t, 0.06), dark, 0.02, 0.5, 0.006)
    shut = an.shut(side)
    if shut < 0.9:
        outline = an.eye_outline(side)
        white = mix((226, 220, 214), look.skin, 0.18)
        canvas.fill(outline, white)
        _iris(canvas, an, look, side, outline, draw)
    lash = 0.024 + 0.02 * look.makeup
    canvas.line(upper, shade(look.hair, 0.4) if look.makeup else shade(look.skin, 0.2), lash, 0.9)
    canvas.line(lower, shade(look.skin, 0.45), 0.014, 0.45)
    corner = an.eye_corners(side)[1]
    canvas.fill(ellipse(corner[0] + side * 0.012, corner[1], 0.018, 0.014, 8), (178, 110, 100), 0.7)
    if look.makeup > 0.5:
        outer = an.eye_corners(side)[0]
        wing = np.stack([outer, outer + np.array([side * 0.06, -0.03])])
        canvas.line(wing, (20, 16, 18), 0.022, 0.8)
    del i


def _iris(
    canvas: Canvas, an: Anatomy, look: Look, side: int, outline: np.ndarray, draw: Draw
) -> None:
    """Iris and pupil, cut by the lids."""
    radius = an.identity.iris
    centre = an.pupil(side)
    cells = canvas.cells(outline)
    (x0, y0), (x1, y1) = np.floor(cells.min(axis=0)) - 1, np.ceil(cells.max(axis=0)) + 2
    left, top = int(x0), int(y0)
    area = canvas.paint[top : int(y1), left : int(x1)]
    inside = np.zeros(area.shape[:2], np.uint8)
    fixed = np.round((cells - (left, top)) * 16).astype(np.int32)
    cv2.fillPoly(inside, [fixed], 255, cv2.LINE_AA, 4)
    eye = area.copy()
    cx, cy = (canvas.cells(centre[None])[0] - (left, top)) * 16
    at = (round(cx), round(cy))
    r = radius * canvas.density * 16
    cv2.circle(eye, at, round(r), shade(look.iris, 0.45), -1, cv2.LINE_AA, 4)
    cv2.circle(eye, at, round(r * 0.86), look.iris, -1, cv2.LINE_AA, 4)
    cv2.circle(eye, at, round(r * 0.42), (10, 8, 8), -1, cv2.LINE_AA, 4)
    glint = (round(cx - 0.3 * r), round(cy - 0.35 * r))
    cv2.circle(eye, glint, round(r * draw.uniform(0.14, 0.26)), (250, 250, 250), -1, cv2.LINE_AA, 4)
    # The upper lid and its lashes throw a shadow on the ball.
    rows = np.linspace(0.62, 1.05, eye.shape[0], dtype=np.float32)[:, None, None]
    shadowed = np.clip(eye * rows, 0, 255)
    weight = inside[..., None].astype(np.float32) / 255
    area[:] = (area + (shadowed - area) * weight).astype(np.uint8)


def paint_brows(canvas: Canvas, anatomy: Anatomy, look: Look, draw: Draw) -> None:
    """Both brows, with hairs."""
    colour = mix(shade(look.hair, 0.8), look.skin, 0.05 if look.hair[0] < 120 else 0.25)
    strength = draw.uniform(0.5, 0.95)
    t = np.linspace(0, 1, 9)
    for side in (-1, 1):
        upper, lower = anatomy.brow(side, True, t), anatomy.brow(side, False, t)
        canvas.fill(np.concatenate([upper, lower[::-1]]), colour, strength, 0.012)
        for share in draw.rng.uniform(0.05, 0.95, 5):
            k = int(share * 8)
            hair = np.stack([lower[k], upper[max(k - 1, 0)]])
            canvas.line(hair, shade(colour, 0.6), 0.012, 0.5)


def paint_mouth(canvas: Canvas, anatomy: Anatomy, look: Look, draw: Draw) -> None:
    """Lips, and teeth, tongue and depth between them."""
    an = anatomy
    canvas.fill(an.mouth_outline(False), look.lips, 0.75 + 0.25 * look.makeup, 0.012)
    t = np.linspace(-0.9, 0.9, 15)
    upper, lower = an.lips("upper_inner", t), an.lips("lower_inner", t)
    lower_lip = np.concatenate([lower, an.lips("lower_outer", t[::-1])])
    canvas.fill(0.5 * lower_lip + 0.5 * lower_lip.mean(axis=0), shade(look.lips, 1.15), 0.5, 0.02)
    gap = float(np.max(lower[:, 1] - upper[:, 1]))
    if gap > 0.012:
        canvas.fill(np.concatenate([upper, lower[::-1]]), (58, 18, 20))
        inside = t[2:-2]
        span_up, span_low = an.lips("upper_inner", inside), an.lips("lower_inner", inside)
        depth = np.minimum(span_low[:, 1] - span_up[:, 1], 0.11 * (1 - inside**4))[:, None]
        tooth = shade((228, 222, 208), draw.uniform(0.75, 1.05))
        if an.smile > -0.1 or draw.chance(0.7):
            edge = span_up + depth * np.array([[0.0, 1.0]])
            canvas.fill(np.concatenate([span_up, edge[::-1]]), tooth)
            for k in range(1, len(inside) - 1):
                canvas.line(np.stack([span_up[k], edge[k]]), shade(tooth, 0.7), 0.008, 0.6)
        if gap > 0.14:
            room = span_low - np.array([[0.0, 0.32 * gap]]) * (1 - inside**2)[:, None]
            canvas.fill(np.concatenate([room, span_low[::-1]]), (150, 62, 64), 0.9, 0.01)
    line = np.concatenate([an.lips("upper_inner", np.linspace(-1, 1, 17))])
    canvas.line(line, shade(look.lips, 0.38), 0.022, 0.85)
    for side in (-1.0, 1.0):
        corner = an.lips("upper_outer", np.array([side]))[0]
        canvas.fill(ellipse(corner[0], corner[1], 0.03, 0.022, 8), shade(look.skin, 0.4), 0.5, 0.012)
    low = an.lips("lower_outer", np.zeros(1))[0, 1]
    canvas.fill(ellipse(0, low + 0.05, 0.16, 0.03), shade(look.skin, 0.55), 0.3, 0.02)


def paint_beard(canvas: Canvas, anatomy: Anatomy, look: Look, draw: Draw) -> None:
    """Stubble, moustache, goatee or full beard."""
    if look.beard == "none":
        return
    an, i = anatomy, anatomy.identity
    out_up, half = an.lips("upper_outer", np.linspace(-1.1, 1.1, 9).clip(-1, 1)), an.mouth_half
    nose, chin = i.nose_y, an.chin_y
    corner_y = float(out_up[0, 1])
    moustache = np.concatenate(
        [
            [(-half - 0.07, corner_y + 0.06), (-0.16, nose + 0.05), (0, nose + 0.07)],
            [(0.16, nose + 0.05), (half + 0.07, corner_y + 0.06)],
            out_up[::-1] + np.array([0.0, 0.015]),
        ]
    )
    around = [(half + 0.10, corner_y), (half + 0.06, chin - 0.2), (0.2, chin + 0.3)]
    left = [(-x, y) for x, y in reversed(around)]
    low = an.lips("lower_outer", np.linspace(-1, 1, 9))
    goatee = np.concatenate([around, left, low + np.array([0.0, 0.03])])
    cheek = [(1.5, 0.1), (1.05, 0.35), (0.66, corner_y - 0.12), (half + 0.08, corner_y - 0.02)]
    full = np.concatenate(
        [
            cheek,
            low[::-1] + np.array([0.0, 0.03]),
            [(-x, y) for x, y in reversed(cheek)],
            [(-1.7, 1.0), (-0.8, BOTTOM), (0.8, BOTTOM), (1.7, 1.0)],
        ]
    )
    weight = canvas.mask(moustache, 0.025)
    if look.beard in ("goatee", "full", "stubble"):
        area = goatee if look.beard == "goatee" else full
        weight = np.maximum(weight, canvas.mask(area, 0.05, flat=True))
    grain = noise(draw, canvas.shape, *canvas.shape)
    if look.beard == "stubble":
        weight = weight * np.clip(0.25 + 0.13 * grain, 0, 0.6) * draw.uniform(0.5, 1.3)
        canvas.blend(mix(shade(look.hair, 0.7), look.skin, 0.2), weight)
    else:
        streaks = noise(draw, canvas.shape, canvas.shape[0] // 5, canvas.shape[1] // 2)
        texture = np.clip(1 + 0.22 * streaks + 0.1 * grain, 0.4, 1.8)[..., None]
        weight = weight * np.clip(0.86 + 0.1 * grain, 0, 1)
        canvas.blend(np.asarray(look.hair, np.float32) * texture, weight)


def hair_mask(canvas: Canvas, look: Look, draw: Draw) -> np.ndarray:
    """Where hair grows on the unrolled head, float32 in 0..1."""
    line = draw.normal(-0.92, 0.08)
    tooth = 0.03
    if look.style == "bald":
        if draw.chance(0.5):
            return np.zeros(canvas.shape, np.float32)
        # A wreath behind the ears.
        low = [(1.32, 0.4), (1.25, -0.2), (1.55, -0.6), (REACH, -0.8), (REACH, 0.9), (1.7, 0.7)]
        left = [(-x, y) for x, y in reversed(low)]
        weight = canvas.mask(np.array(low), 0.03, flat=True)
        return np.maximum(weight, canvas.mask(np.array(left), 0.03, flat=True))
    peak = draw.normal(0.02, 0.04)
    temple = draw.normal(0.90, 0.05)
    front = [(0.0, line + peak), (0.3, line - 0.03), (0.62, line + 0.08), (temple, line + 0.36)]
    burn = draw.uniform(0.0, 0.45)
    side = [(temple + 0.12, -0.22), (temple + 0.2, burn), (1.36, burn - 0.02), (1.42, -0.05)]
    back = [(1.62, 0.5), (1.9, 1.0), (REACH, 1.1)]
    if look.style == "long" or (look.style in ("fringe", "parted") and draw.chance(0.5)):
        inner = draw.uniform(0.98, 1.22)
        side = [(inner, -0.2), (inner + 0.02, 0.5), (inner + 0.06, BOTTOM)]
        back = [(REACH, BOTTOM)]
    right = front + side + back
    left = [(-u, y) for u, y in reversed(right[1:])]
    if look.style == "parted":
        shift = draw.uniform(-0.45, 0.45)
        right = [(shift, line - 0.1), *right[2:]]
        left = left[:-1]
    points = np.array([*left, *right, (REACH, TOP), (-REACH, TOP)])
    weight = canvas.mask(points, tooth, flat=True)
    if look.style == "fringe":
        weight = np.maximum(weight, _fringe(canvas, line, draw))
    return weight


def _fringe(canvas: Canvas, line: float, draw: Draw) -> np.ndarray:
    """Hair that falls over the brow in locks."""
    reach = draw.uniform(-0.52, -0.12)
    lean = draw.normal(0.0, 0.15)
    u = np.linspace(-1.05, 1.05, 22)
    lower = reach + 0.25 * (np.abs(u) > 0.85) + lean * u + draw.rng.normal(0, 0.06, 22)
    points = np.concatenate(
        [np.stack([u, lower], axis=1), [(1.05, line - 0.3), (-1.05, line - 0.3)]]
    )
    return canvas.mask(points, 0.015, flat=True)


def paint_hair(canvas: Canvas, look: Look, weight: np.ndarray, draw: Draw) -> None:
    """Fill the mask with strands."""
    if look.style == "bald" and not weight.any():
        return
    rows, columns = canvas.shape
    strands = noise(draw, canvas.shape, max(rows // 24, 2), columns // 2)
    locks = noise(draw, canvas.shape, max(rows // 40, 2), max(columns // 9, 2))
    texture = np.clip(1 + 0.22 * strands + 0.16 * locks, 0.35, 2.0)[..., None]
    canvas.blend(np.asarray(look.hair, np.float32) * texture, weight)
