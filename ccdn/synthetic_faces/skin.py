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
    """What is on the head: masks over the canvas, uint8."""

    hair: np.ndarray
    beard: np.ndarray | None
    cap: np.ndarray | None

    @property
    def volume(self) -> np.ndarray:
        """Where the head is thicker."""
        return self.hair if self.cap is None else np.maximum(self.hair, self.cap)


def paint_face(canvas: Canvas, anatomy: Anatomy, look: Look, draw: RandomStream) -> Cover:
    """Paint everything but hair, and say where hair grows."""
    _soft_parts(canvas, anatomy, look)
    canvas.flush()
    canvas.soften(0.022)
    _nose(canvas, anatomy, look, draw)
    for side in (-1, 1):
        _eye(canvas, anatomy, look, side, draw)
        _brow(canvas, anatomy, look, side, draw)
    _mouth(canvas, anatomy, look, draw)
    canvas.flush()
    # Skin scatters light: its colours have no sharp borders.
    canvas.soften(draw.uniform(0.004, 0.020))
    return Cover(_hair(canvas, look, draw), _beard(canvas, anatomy, look), _cap(canvas, look, draw))


def _soft_parts(canvas: Canvas, an: Anatomy, look: Look) -> None:
    """Blush, lids, folds and hollows; painted first, then blurred."""
    i = an.identity
    skin = look.skin
    red = mix(skin, (190, 70, 60), 0.5)
    dark = shade(skin, 0.45)
    smile = max(0.0, an.smile)
    creased = look.folds * (0.12 + 0.4 * look.age + 0.4 * smile)
    left_corner, right_corner = an.lips["upper_outer"][[0, -1]]
    for side, corner in ((-1, left_corner), (1, right_corner)):
        cheek = 0.10 + 0.25 * look.makeup
        canvas.fill(ellipse(side * 0.60, 0.50, 0.26, 0.20, 20), mix(skin, red, 0.5 * cheek))
        canvas.fill(ellipse(side * 0.60, 0.50, 0.17, 0.13, 20), mix(skin, red, cheek))
        hollow = look.socket
        canvas.fill(
            ellipse(side * (i.eye_x - 0.02), -0.02, 0.30, 0.17, 20), shade(skin, 1 - 0.16 * hollow)
        )
        canvas.fill(
            ellipse(side * (i.eye_x - 0.04), -0.07, 0.24, 0.09, 20), shade(skin, 1 - 0.30 * hollow)
        )
        canvas.fill(ellipse(side * 0.23, 0.0, 0.07, 0.12), shade(skin, 0.95 - 0.20 * hollow))
        bag = np.concatenate([an.lid(side, False, 0.10), an.lid(side, False, 0.05)[::-1]])
        canvas.fill(bag, mix(skin, dark, look.folds * (0.12 + 0.25 * look.age + 0.2 * smile)))
        fold = np.array(
            [
                (side * (an.nose_half + 0.03), i.nose_y - 0.12),
                (side * (an.nose_half + 0.11), i.nose_y + 0.04),
                (corner[0] + side * 0.09, corner[1] - 0.09),
                (corner[0] + side * 0.10, corner[1] + 0.05),
            ]
        )
        # The cheek over the fold catches light.
        canvas.line(fold + np.array([side * 0.07, -0.03]), shade(skin, 1 + 0.3 * creased), 0.08)
        canvas.line(fold, mix(skin, dark, creased), 0.035)
        if smile > 0.5:
            bracket = corner + np.array(
                [(side * 0.15, -0.16), (side * 0.19, 0.0), (side * 0.14, 0.16)]
            )
            canvas.line(bracket, mix(skin, dark, 0.5 * creased), 0.03)
            outer = an.eye_corners(side)[0]
            for drop in (-0.03, 0.03, 0.09):
                foot = outer + np.array([(side * 0.05, drop / 2), (side * 0.16, drop)])
                canvas.line(foot, mix(skin, dark, look.age * creased), 0.016)
        if an.expression.frown > 0.3:
            line = np.array([(side * 0.07, i.brow_y - 0.08), (side * 0.055, i.brow_y + 0.1)])
            canvas.line(line, mix(skin, dark, 0.6 * an.expression.frown), 0.03)
    canvas.fill(ellipse(0, an.tip_y, 0.13, 0.11), mix(skin, red, 0.16))
    canvas.line(np.array([(0, i.nose_y + 0.02), (0, i.nose_y + 0.17)]), shade(skin, 0.86), 0.05)
    low = float(an.lips["lower_outer"][8, 1])
    canvas.fill(ellipse(0, low + 0.06, 0.18, 0.035), shade(skin, 1 - 0.35 * look.folds))
    if look.age > 0.3 or an.expression.raised > 0.5:
        x = np.linspace(-0.4, 0.4, 7)
        depth = max(0.4 * look.age, 0.3 * an.expression.raised * look.folds)
        for y in (-0.56, -0.66, -0.76):
            line = np.stack([x, y - 0.10 * an.expression.raised + 0.12 * x**2], axis=1)
            canvas.line(line, mix(skin, dark, depth), 0.02)


def _nose(canvas: Canvas, an: Anatomy, look: Look, draw: RandomStream) -> None:
    """Nostrils and the creases of the wings."""
    i, half = an.identity, an.nose_half
    wing_x = np.array([0.78, 1.02, 0.98, 0.74]) * half
    wing_y = i.nose_y + np.array([-0.20, -0.13, -0.05, -0.02])
    crease, hole = draw.uniform(0.66, 0.92), draw.uniform(0.2, 0.6)
    wide, high = draw.uniform(0.035, 0.055), draw.uniform(0.012, 0.026)
    for side in (-1, 1):
        wing = np.array([side * wing_x, wing_y]).T
        canvas.line(wing, shade(look.skin, crease), 0.03)
        x, y = side * 0.42 * half, i.nose_y - 0.035
        canvas.fill(ellipse(x, y, wide + 0.015, high + 0.012), shade(look.skin, 0.4 + 0.5 * hole))
        canvas.fill(ellipse(x, y, wide, high), shade(look.skin, hole))


def _eye(canvas: Canvas, an: Anatomy, look: Look, side: int, draw: RandomStream) -> None:
    """White, iris, pupil and glint, then the lids over them, then the lashes."""
    skin = look.skin
    upper, lower = an.lid(side, True), an.lid(side, False)
    outer, inner = upper[0], upper[-1]
    shadow = mix(shade(skin, 0.92 - 0.15 * look.socket), look.shadow, 0.55 * look.makeup)
    # The corner of the tear lies between the ends of the lids and the nose.
    tear = inner + np.array([(0.0, -0.014), (-side * 0.045, 0.012), (0.0, 0.016)])
    canvas.fill(tear, mix(shade(skin, 0.75), (186.0, 100.0, 96.0), 0.5))
    if an.shut(side) < 0.9:
        outline = np.concatenate([upper, lower[-2:0:-1]])
        white = mix(shade(skin, 0.7), (232, 228, 224), look.sclera)
        canvas.fill(outline, white)
        top = upper + np.array([0.0, 0.035])
        canvas.fill(np.concatenate([upper, top[::-1]]), mix(white, shade(skin, 0.4), 0.5))
        x, y = an.pupil(side)
        r = an.identity.iris
        canvas.fill(ellipse(x, y, r, r, 20), shade(look.iris, 0.42))
        canvas.fill(ellipse(x, y + 0.1 * r, 0.80 * r, 0.76 * r, 20), look.iris)
        canvas.fill(ellipse(x, y, 0.42 * r, 0.42 * r), (10.0, 8.0, 8.0))
        if look.glints > 0:
            bright = r * draw.uniform(0.10, 0.26)
            glint = ellipse(x + look.glint * r, y - 0.36 * r, bright, bright, 8)
            canvas.fill(glint, mix(look.iris, (250.0,) * 3, look.glints))
    canvas.fill(np.concatenate([an.lid(side, True, 0.095), upper[::-1]]), shadow)
    canvas.fill(np.concatenate([an.lid(side, False, 0.07), lower[::-1]]), shade(skin, 0.95))
    if look.crease > 0.15:
        height = 0.05 + 0.035 * look.crease
        fold = an.lid(side, True, height)
        canvas.line(fold, mix(shadow, shade(skin, 0.4), 0.8 * look.crease), 0.018)
    lash = mix(shade(skin, 0.42), shade(look.hair, 0.3), min(1.0, 0.25 + look.liner))
    canvas.line(lower, mix(shade(skin, 0.70), lash, 0.7 * look.liner), 0.012 + 0.008 * look.liner)
    canvas.line(upper, lash, 0.018 + 0.034 * look.liner)
    if look.makeup > 0.5:
        canvas.line(
            np.array([outer, outer + np.array([side * 0.06, -0.035])]), (20.0, 16.0, 18.0), 0.022
        )


def _brow(canvas: Canvas, an: Anatomy, look: Look, side: int, draw: RandomStream) -> None:
    """A brow: thin at its edges, with some of its hairs."""
    colour = mix(shade(look.hair, 0.8), look.skin, 1 - look.brow)
    upper, lower = an.brow(side, True), an.brow(side, False)
    # The first hairs next to the nose hardly show.
    bare = draw.uniform(0.0, 0.6)
    for line in (upper, lower):
        line[-1] += bare * (line[-2] - line[-1])
    edge = mix(colour, look.skin, 0.55)
    canvas.fill(np.concatenate([upper, lower[::-1]]), edge)
    core = 0.16 * (lower - upper)
    canvas.fill(np.concatenate([upper + core, (lower - core)[::-1]]), colour)
    dark, light = shade(colour, 0.75), mix(colour, look.skin, 0.3)
    for k in range(1, 9):
        if draw.chance(0.6):
            canvas.line(np.array([lower[k], upper[k - 1]]), dark, 0.012)
        if draw.chance(0.3):
            canvas.line(np.array([lower[k - 1], upper[k - 1]]), light, 0.012)


def _mouth(canvas: Canvas, an: Anatomy, look: Look, draw: RandomStream) -> None:
    """Lips, and teeth, tongue and depth between them."""
    lips = an.lips
    upper, lower, low = lips["upper_inner"], lips["lower_inner"], lips["lower_outer"]
    above = mix(shade(look.lips, draw.uniform(0.8, 1.0)), look.skin, 0.25 * (1 - look.vermilion))
    # The skin along the upper lip is raised and catches light.
    roll = lips["upper_outer"] - np.array([0.0, 0.014])
    canvas.line(roll[2:-2], shade(look.skin, 1 + draw.uniform(-0.05, 0.2)), 0.028)
    canvas.fill(np.concatenate([lips["upper_outer"], upper[::-1]]), above)
    canvas.fill(np.concatenate([lower, low[::-1]]), look.lips)
    # The lower lip bulges: lit above, in its own shadow below.
    for share, bright, width in ((0.75, 0.90, 0.03), (0.35, 1.05 + 0.22 * look.moist, 0.045)):
        full = lower + (low - lower) * share
        canvas.line(full[4:-4], shade(look.lips, bright), width)
    gap = lower[:, 1] - upper[:, 1]
    widest = float(gap.max())
    if widest > 0.012:
        inside = (draw.uniform(20, 90), draw.uniform(8, 30), draw.uniform(8, 30))
        canvas.fill(np.concatenate([upper[1:-1], lower[-2:0:-1]]), inside)
        cut = slice(2, -2)
        t = LIP_T[cut]
        if widest > 0.14:
            rise = np.array([np.zeros_like(t), draw.uniform(0.2, 0.5) * widest * (1 - t**2)]).T
            tongue = np.concatenate([lower[cut] - rise, lower[cut][::-1]])
            canvas.fill(tongue, (draw.uniform(110, 190), 66.0, 66.0))
        if an.smile > -0.1 or draw.chance(0.7):
            # A smile shows all of the upper teeth, and clenched ones below them the lower.
            depth = np.minimum(gap[cut], look.bite * (1 - 0.6 * t**4))
            _teeth(canvas, look, upper[cut], depth)
            left = gap[cut] - depth
            if widest < 0.3 and draw.chance(0.45):
                _teeth(canvas, look, lower[cut], -np.minimum(0.85 * left, 0.11 * (1 - t**2)))
    canvas.line(upper, shade(look.lips, draw.uniform(0.32, 0.7)), draw.uniform(0.012, 0.024))
    for corner in (upper[0], upper[-1]):
        canvas.fill(ellipse(corner[0], corner[1] - 0.01, 0.022, 0.016, 8), shade(look.lips, 0.5))


def _teeth(canvas: Canvas, look: Look, gum: np.ndarray, depth: np.ndarray) -> None:
    """A row of teeth from the edge of a lip (n, 2) this far down; negative goes up."""
    edge = gum + np.array([np.zeros_like(depth), depth]).T
    canvas.fill(np.concatenate([gum, edge[::-1]]), look.teeth)
    for k in range(1, len(gum) - 1, 2):
        canvas.line(np.array([gum[k], edge[k]]), shade(look.teeth, 0.86), 0.006)
    # The side teeth are in the shadow of the cheek.
    for end in (slice(0, 3), slice(-3, None)):
        canvas.fill(np.concatenate([gum[end], edge[end][::-1]]), shade(look.teeth, 0.68))


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
        inner = draw.uniform(0.95, 1.35)
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
    if look.style in ("long", "parted", "fringe") and draw.chance(0.35):
        # Loose strands over forehead and cheeks.
        for _ in range(2 + draw.below(5)):
            start, end = draw.uniform(-0.9, 0.9), draw.uniform(-0.3, 0.8)
            out = 0.4 * np.sign(start) * draw.uniform(-0.3, 1.0)
            v = np.linspace(line - 0.1, end, 6)
            u = start + out * np.linspace(0, 1, 6) ** 0.5
            w = draw.uniform(0.008, 0.03)
            areas.append(np.array([*np.stack([u - w, v], 1), *np.stack([u + w, v], 1)[::-1]]))
    return canvas.mask(areas, 0.015)


def _cap(canvas: Canvas, look: Look, draw: RandomStream) -> np.ndarray | None:
    """Where a cap or a hood lies: over the forehead, above or over the ears."""
    if look.cap is None:
        return None
    brim, ear = draw.uniform(-0.80, -0.38), draw.uniform(-0.45, 0.5)
    right = [(0.0, brim), (0.5, brim + 0.03), (0.95, 0.6 * brim + 0.2 * ear - 0.1), (1.35, ear)]
    right += [(REACH, ear + 0.1), (REACH, TOP)]
    return canvas.mask([np.array([*_mirrored(right[1:]), *right])], 0.012)
