"""Painting a face onto its canvas: skin, eyes, brows, nose, lips; and where hair and beard grow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ccdn.data.shapes import shade
from ccdn.synthetic_faces.anatomy import LIP_T, Anatomy
from ccdn.synthetic_faces.canvas import BOTTOM, REACH, TOP, Canvas, ellipse
from ccdn.synthetic_faces.look import Look, mix
from ccdn.synthetic_faces.parameters import RandomStream


@dataclass(frozen=True)
class Cover:
    """What grows on the head: masks over the canvas, uint8, and the volume of the hair."""

    hair: np.ndarray
    beard: np.ndarray | None


def paint_face(canvas: Canvas, anatomy: Anatomy, look: Look, draw: RandomStream) -> Cover:
    """Paint everything but hair, and say where hair grows."""
    _soft_parts(canvas, anatomy, look)
    canvas.flush()
    canvas.soften(0.018)
    _nose(canvas, anatomy, look)
    for side in (-1, 1):
        _eye(canvas, anatomy, look, side, draw)
        _brow(canvas, anatomy, look, side, draw)
    _mouth(canvas, anatomy, look, draw)
    canvas.flush()
    return Cover(_hair(canvas, look, draw), _beard(canvas, anatomy, look))


def _soft_parts(canvas: Canvas, an: Anatomy, look: Look) -> None:
    """Blush, lids, folds and hollows; painted first, then blurred."""
    i = an.identity
    skin = look.skin
    red = mix(skin, (190, 70, 60), 0.5)
    dark = shade(skin, 0.45)
    smile = max(0.0, an.smile)
    left_corner, right_corner = an.lips["upper_outer"][[0, -1]]
    for side, corner in ((-1, left_corner), (1, right_corner)):
        cheek = 0.10 + 0.25 * look.makeup
        canvas.fill(ellipse(side * 0.60, 0.50, 0.26, 0.20, 20), mix(skin, red, 0.5 * cheek))
        canvas.fill(ellipse(side * 0.60, 0.50, 0.17, 0.13, 20), mix(skin, red, cheek))
        canvas.fill(ellipse(side * (i.eye_x - 0.02), 0.0, 0.28, 0.15, 20), shade(skin, 0.93))
        canvas.fill(ellipse(side * 0.23, 0.0, 0.08, 0.12), shade(skin, 0.86))
        bag = np.concatenate([an.lid(side, False, 0.09), an.lid(side, False, 0.06)[::-1]])
        canvas.fill(bag, mix(skin, dark, 0.08 + 0.25 * look.age))
        fold = np.array(
            [
                (side * (an.nose_half + 0.03), i.nose_y - 0.12),
                (side * (an.nose_half + 0.11), i.nose_y + 0.04),
                (corner[0] + side * 0.09, corner[1] - 0.09),
                (corner[0] + side * 0.10, corner[1] + 0.05),
            ]
        )
        canvas.line(fold, mix(skin, dark, 0.08 + 0.3 * look.age + 0.3 * smile), 0.03)
        if an.expression.frown > 0.3:
            line = np.array([(side * 0.07, i.brow_y - 0.08), (side * 0.055, i.brow_y + 0.1)])
            canvas.line(line, mix(skin, dark, 0.6 * an.expression.frown), 0.03)
    canvas.fill(ellipse(0, an.tip_y, 0.13, 0.11), mix(skin, red, 0.16))
    canvas.line(np.array([(0, i.nose_y + 0.02), (0, i.nose_y + 0.17)]), shade(skin, 0.86), 0.05)
    low = float(an.lips["lower_outer"][8, 1])
    canvas.fill(ellipse(0, low + 0.06, 0.18, 0.035), shade(skin, 0.78))
    if look.age > 0.3:
        x = np.linspace(-0.4, 0.4, 7)
        for y in (-0.56, -0.66, -0.76):
            line = np.stack([x, y - 0.10 * an.expression.raised + 0.12 * x**2], axis=1)
            canvas.line(line, mix(skin, dark, 0.4 * look.age), 0.02)


def _nose(canvas: Canvas, an: Anatomy, look: Look) -> None:
    """Nostrils and the creases of the wings."""
    i, half = an.identity, an.nose_half
    wing_x = np.array([0.78, 1.02, 0.98, 0.74]) * half
    wing_y = i.nose_y + np.array([-0.20, -0.13, -0.05, -0.02])
    for side in (-1, 1):
        wing = np.array([side * wing_x, wing_y]).T
        canvas.line(wing, shade(look.skin, 0.72), 0.03)
        canvas.fill(
            ellipse(side * 0.42 * half, i.nose_y - 0.04, 0.065, 0.034), shade(look.skin, 0.6)
        )
        canvas.fill(
            ellipse(side * 0.42 * half, i.nose_y - 0.035, 0.05, 0.022), shade(look.skin, 0.25)
        )


def _eye(canvas: Canvas, an: Anatomy, look: Look, side: int, draw: RandomStream) -> None:
    """White, iris, pupil and glint, then the lids over them, then the lashes."""
    skin = look.skin
    upper, lower = an.lid(side, True), an.lid(side, False)
    outer, inner = upper[0], upper[-1]
    shadow = mix(shade(skin, 0.84), look.shadow, 0.55 * look.makeup)
    if an.shut(side) < 0.9:
        outline = np.concatenate([upper, lower[-2:0:-1]])
        canvas.fill(outline, mix((228, 224, 220), skin, 0.15))
        top = upper + np.array([0.0, 0.03])
        canvas.fill(np.concatenate([upper, top[::-1]]), mix((150, 140, 138), skin, 0.3))
        x, y = an.pupil(side)
        r = an.identity.iris
        canvas.fill(ellipse(x, y, r, r, 20), shade(look.iris, 0.42))
        canvas.fill(ellipse(x, y + 0.1 * r, 0.80 * r, 0.76 * r, 20), look.iris)
        canvas.fill(ellipse(x, y, 0.42 * r, 0.42 * r), (10.0, 8.0, 8.0))
        bright = r * draw.uniform(0.12, 0.26)
        canvas.fill(ellipse(x + look.glint * r, y - 0.36 * r, bright, bright, 8), (250.0,) * 3)
        canvas.fill(
            ellipse(inner[0] + side * 0.02, inner[1], 0.022, 0.014, 8), (186.0, 120.0, 110.0)
        )
    canvas.fill(np.concatenate([an.lid(side, True, 0.095), upper[::-1]]), shadow)
    canvas.fill(np.concatenate([an.lid(side, False, 0.07), lower[::-1]]), shade(skin, 0.93))
    canvas.line(an.lid(side, True, 0.07), mix(shadow, shade(skin, 0.4), 0.55), 0.018)
    lash = shade(look.hair, 0.3) if look.makeup > 0.2 else mix(shade(skin, 0.25), look.hair, 0.3)
    canvas.line(lower, mix(shade(skin, 0.62), lash, 0.4 * look.makeup), 0.014)
    canvas.line(upper, lash, 0.026 + 0.02 * look.makeup)
    if look.makeup > 0.5:
        canvas.line(
            np.array([outer, outer + np.array([side * 0.06, -0.035])]), (20.0, 16.0, 18.0), 0.022
        )


def _brow(canvas: Canvas, an: Anatomy, look: Look, side: int, draw: RandomStream) -> None:
    """A brow and some of its hairs."""
    colour = mix(shade(look.hair, 0.8), look.skin, 1 - look.brow)
    upper, lower = an.brow(side, True), an.brow(side, False)
    canvas.fill(np.concatenate([upper, lower[::-1]]), colour)
    dark = shade(colour, 0.75)
    for k in range(1, 9):
        if draw.chance(0.6):
            canvas.line(np.array([lower[k], upper[k - 1]]), dark, 0.012)
    light = mix(colour, look.skin, 0.4)
    canvas.line(upper[2:], light, 0.012)


def _mouth(canvas: Canvas, an: Anatomy, look: Look, draw: RandomStream) -> None:
    """Lips, and teeth, tongue and depth between them."""
    lips = an.lips
    upper, lower, low = lips["upper_inner"], lips["lower_inner"], lips["lower_outer"]
    canvas.fill(np.concatenate([lips["upper_outer"], upper[::-1]]), shade(look.lips, 0.92))
    canvas.fill(np.concatenate([lower, low[::-1]]), look.lips)
    full = lower + (low - lower) * 0.35
    canvas.line(full[4:-4], shade(look.lips, 1.12), 0.045)
    gap = lower[:, 1] - upper[:, 1]
    widest = float(gap.max())
    if widest > 0.012:
        canvas.fill(np.concatenate([upper[1:-1], lower[-2:0:-1]]), (58.0, 18.0, 20.0))
        cut = slice(2, -2)
        t = LIP_T[cut]
        depth = np.minimum(gap[cut], 0.11 * (1 - t**4))
        tooth = shade(look.teeth, draw.uniform(0.85, 1.05))
        if an.smile > -0.1 or draw.chance(0.7):
            edge = upper[cut] + np.array([np.zeros_like(depth), depth]).T
            canvas.fill(np.concatenate([upper[cut], edge[::-1]]), tooth)
            for k in range(1, len(t) - 1, 2):
                canvas.line(np.array([upper[cut][k], edge[k]]), shade(tooth, 0.8), 0.006)
        if widest > 0.14:
            rise = np.array([np.zeros_like(depth), 0.32 * widest * (1 - t**2)]).T
            tongue = np.concatenate([lower[cut] - rise, lower[cut][::-1]])
            canvas.fill(tongue, (150.0, 62.0, 64.0))
    canvas.line(upper, shade(look.lips, 0.42), 0.02)
    for corner in (upper[0], upper[-1]):
        canvas.fill(ellipse(corner[0], corner[1], 0.022, 0.016, 8), shade(look.lips, 0.5))


def _beard(canvas: Canvas, an: Anatomy, look: Look) -> np.ndarray | None:
    """Where stubble, moustache, goatee or full beard grows."""
    if look.beard == "none":
        return None
    half, chin, nose = an.mouth_half, an.chin_y, an.identity.nose_y
    top, low = an.lips["upper_outer"], an.lips["lower_outer"] + np.array([0.0, 0.03])
    left, right = float(top[0, 1]), float(top[-1, 1])
    moustache = [(-half - 0.07, left + 0.06), (-0.16, nose + 0.05), (0, nose + 0.07)]
    moustache += [(0.16, nose + 0.05), (half + 0.07, right + 0.06)]
    areas = [np.concatenate([moustache, top[::-1] + np.array([0.0, 0.015])])]
    if look.beard == "goatee":
        side = [(half + 0.10, right), (half + 0.06, chin - 0.2), (0.2, chin + 0.3)]
        areas.append(np.concatenate([side, [(-x, y) for x, y in reversed(side)], low]))
    elif look.beard in ("full", "stubble"):
        side = [(1.5, 0.1), (1.05, 0.35), (0.66, right - 0.12), (half + 0.08, right - 0.02)]
        around = [(-1.7, 1.0), (-0.8, BOTTOM), (0.8, BOTTOM), (1.7, 1.0)]
        mirrored = [(-x, y) for x, y in reversed(side)]
        areas.append(np.concatenate([side, low[::-1], mirrored, around]))
    return canvas.mask(areas, 0.03)


def _mirrored(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(-u, y) for u, y in reversed(points)]


def _hair(canvas: Canvas, look: Look, draw: RandomStream) -> np.ndarray:
    """Where hair grows on the unrolled head."""
    line = look.hairline
    if look.style == "bald":
        if draw.chance(0.5):
            return np.zeros(canvas.shape, np.uint8)
        # A wreath behind the ears.
        low = [(1.32, 0.4), (1.25, -0.2), (1.55, -0.6), (REACH, -0.8), (REACH, 0.9), (1.7, 0.7)]
        return canvas.mask([np.array(low), np.array(_mirrored(low))], 0.03)
    temple = draw.normal(0.90, 0.05)
    front = [(0.0, line + draw.normal(0.02, 0.04)), (0.3, line - 0.03), (0.62, line + 0.08)]
    front.append((temple, line + 0.40))
    burn = draw.uniform(0.0, 0.45)
    side = [(temple + 0.12, -0.22), (temple + 0.2, burn), (1.36, burn - 0.02), (1.42, -0.05)]
    side += [(1.62, 0.5), (1.9, 0.8), (REACH, 0.9)]
    if look.style == "long":
        inner = draw.uniform(1.02, 1.30)
        side = [(inner, -0.25), (inner + 0.05, 0.35), (inner + 0.12, 0.9), (REACH, 1.1)]
    right = front + side
    left = _mirrored(right[1:])
    if look.style == "parted":
        right = [(draw.uniform(-0.45, 0.45), line - 0.1), *right[2:]]
        left = left[:-1]
    areas = [np.array([*left, *right, (REACH, TOP), (-REACH, TOP)])]
    if look.style == "fringe":
        reach, lean = draw.uniform(-0.55, -0.14), draw.normal(0.0, 0.12)
        u = np.linspace(-1.05, 1.05, 22)
        tips = [reach + draw.normal(0, 0.05) for _ in u] + 0.2 * (np.abs(u) > 0.85) + lean * u
        top = [(1.05, line - 0.3), (-1.05, line - 0.3)]
        areas.append(np.concatenate([np.array([u, tips]).T, top]))
    return canvas.mask(areas, 0.015)
