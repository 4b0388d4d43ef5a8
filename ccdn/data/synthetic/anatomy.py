"""Curves and named points of a face in front view, and the order in which benchmarks list them.

Everything here is two-dimensional: x and y of the head frame; `head.py` lifts it onto the surface. One
set of curves serves the painting and the landmarks, so that an annotation lies exactly on what is seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ccdn.data.synthetic.parameters import Expression, Identity

# Points of the 68 layout in the 98 layout: jaw every second, brows their upper edge, lids without the
# middle of each, everything else as it is.
SIXTY_EIGHT_OF_98 = np.array(
    [*range(0, 33, 2), *range(33, 38), *range(42, 47), *range(51, 60)]
    + [60, 61, 63, 64, 65, 67, 68, 69, 71, 72, 73, 75]
    + [*range(76, 96)]
)
LAYOUTS = (68, 98)
JAW_POINTS = 33
LID_STEPS = (0.26, 0.5, 0.74)


@dataclass(frozen=True)
class Anatomy:
    """The front view of one face with one expression."""

    identity: Identity
    expression: Expression

    @cached_property
    def drop(self) -> float:
        """How far the jaw has carried the lower lip and the chin down."""
        return 0.36 * self.expression.open

    @cached_property
    def mouth_y(self) -> float:
        """Height of the line of the lips at rest."""
        return self.identity.nose_y + self.identity.mouth_gap * (1 - 0.12 * self.smile)

    @cached_property
    def smile(self) -> float:
        """The pulling of the corners, positive upwards."""
        return self.expression.smile

    @cached_property
    def chin_y(self) -> float:
        """Height of the lowest point of the chin."""
        rest = self.identity.nose_y + self.identity.mouth_gap + self.identity.chin_gap
        return rest + 0.85 * self.drop

    @cached_property
    def mouth_half(self) -> float:
        """Half the width of the mouth."""
        e = self.expression
        wide = 1 + 0.24 * max(0.0, e.smile) - 0.30 * e.pucker - 0.16 * e.open
        return self.identity.mouth_half * wide

    # ---- eyes and brows; side is -1 for the left of the picture, +1 for the right -------------------

    def shut(self, side: int) -> float:
        """How far the lid of this eye is closed, 0 to 1."""
        return self.expression.close_left if side < 0 else self.expression.close_right

    def eye_corners(self, side: int) -> tuple[np.ndarray, np.ndarray]:
        """Outer and inner corner, (2,) each."""
        i = self.identity
        sway = side * i.asymmetry
        outer = np.array([side * (i.eye_x + i.eye_half), -0.5 * i.eye_tilt + sway])
        inner = np.array([side * (i.eye_x - i.eye_half), 0.5 * i.eye_tilt + 0.018 + sway])
        return outer, inner

    def lid(self, side: int, upper: bool, t: np.ndarray, extra: float = 0.0) -> np.ndarray:
        """Points (n, 2) of a lid's edge, t from 0 at the outer corner to 1 at the inner one."""
        i = self.identity
        outer, inner = self.eye_corners(side)
        line = outer + t[:, None] * (inner - outer)
        bow = np.power(np.clip(4 * t * (1 - t), 0, None), 0.72)
        shut = self.shut(side)
        cheek = 1 - 0.35 * max(0.0, self.smile)
        low = i.eye_lower * cheek * (1 - 0.35 * shut)
        if upper:
            wide = 1 + 0.25 * max(0.0, self.expression.raised)
            height = -i.eye_upper * wide * (1 - shut) + low * shut - extra
            bow = bow * (1 + 0.18 * (t - 0.5))
        else:
            height = low + extra
        line[:, 1] += height * bow
        return line

    def eye_outline(self, side: int, samples: int = 12) -> np.ndarray:
        """The opening between the lids as a polygon."""
        t = np.linspace(0, 1, samples)
        return np.concatenate([self.lid(side, True, t), self.lid(side, False, t[::-1])[1:-1]])

    def pupil(self, side: int) -> np.ndarray:
        """Centre of the pupil, (2,)."""
        i, e = self.identity, self.expression
        outer, inner = self.eye_corners(side)
        middle = (outer + inner) / 2 + np.array([0.0, -0.35 * i.eye_upper + 0.3 * i.eye_lower])
        return middle + np.array([e.gaze_x * 0.30 * i.eye_half, e.gaze_y * 0.35 * i.eye_upper])

    def brow(self, side: int, upper: bool, t: np.ndarray) -> np.ndarray:
        """Points (n, 2) of a brow's edge, t from 0 at the outer end to 1 at the inner one."""
        i, e = self.identity, self.expression
        inner_x = i.brow_inner - 0.03 * e.frown
        x = i.brow_outer + (inner_x - i.brow_outer) * t
        rise = 0.11 * e.raised
        arch = i.brow_arch * (1 + 0.5 * max(0.0, e.raised))
        peak = np.clip(1 - ((t - 0.38) / 0.62) ** 2, -0.4, 1)
        y = i.brow_y - rise - arch * peak + i.brow_tilt * (t - 0.5)
        y = y + 0.09 * e.frown * t**2 + 0.05 * (1 - t) ** 4
        thick = i.brow_thick * (0.25 + 0.75 * np.minimum(1.0, t / 0.55))
        y = y + (-0.5 if upper else 0.5) * thick + side * i.asymmetry
        return np.stack([side * x, y], axis=1)

    # ---- nose --------------------------------------------------------------------------------------

    @cached_property
    def tip_y(self) -> float:
        """Height of the tip of the nose."""
        return self.identity.nose_y - self.identity.nose_tip

    @cached_property
    def nose_half(self) -> float:
        """Half the width between the wings, wider in a smile."""
        return self.identity.nose_half * (1 + 0.10 * max(0.0, self.smile))

    def ridge(self) -> np.ndarray:
        """Four points (4, 2) from between the eyes to the tip."""
        y = np.linspace(0.0, self.tip_y, 4)
        return np.stack([np.zeros(4), y], axis=1)

    def nose_base(self) -> np.ndarray:
        """Five points (5, 2) under the nose, wing to wing."""
        x = np.array([-0.74, -0.38, 0.0, 0.38, 0.74]) * self.nose_half
        y = self.identity.nose_y + np.array([-0.035, -0.012, 0.0, -0.012, -0.035])
        return np.stack([x, y], axis=1)

    # ---- mouth -------------------------------------------------------------------------------------

    def lips(self, edge: str, t: np.ndarray) -> np.ndarray:
        """Points (n, 2) of an edge of the lips, t from -1 (left corner in the picture) to 1.

        `edge` is upper_outer, upper_inner, lower_inner or lower_outer.
        """
        i, e = self.identity, self.expression
        lift = -0.13 * e.smile * (1 if e.smile > 0 else 0.7) + 0.45 * self.drop
        corner = self.mouth_y + lift * t**2 + 0.6 * e.skew * t
        bow = np.clip(1 - t**2, 0, None)
        wide = np.power(bow, 0.6)
        pout = 1 + 0.3 * e.pucker - 0.25 * max(0.0, e.smile)
        up_gap = (0.045 * e.part + 0.10 * self.drop) * wide
        down_gap = (0.085 * e.part * (1 + 0.3 * max(0.0, e.smile)) + 0.92 * self.drop) * wide
        if edge == "upper_outer":
            height = i.lip_upper * pout * np.power(bow, 0.8)
            dip = i.cupid * (
                np.exp(-((t / 0.13) ** 2)) - 0.6 * np.exp(-(((abs(t) - 0.26) / 0.2) ** 2))
            )
            y = corner - up_gap - height + dip * (bow > 0)
        elif edge == "upper_inner":
            y = corner - up_gap
        elif edge == "lower_inner":
            y = corner + down_gap
        elif edge == "lower_outer":
            y = corner + down_gap + i.lip_lower * pout * np.power(bow, 0.7)
        else:
            raise ValueError(f"no such edge of the lips: {edge!r}")
        return np.stack([t * self.mouth_half + e.skew, y], axis=1)

    def mouth_outline(self, inner: bool, samples: int = 17) -> np.ndarray:
        """The lips' outer outline, or the opening between them, as a polygon."""
        kind = "inner" if inner else "outer"
        reach = 0.9 if inner else 1.0
        t = np.linspace(-reach, reach, samples)
        return np.concatenate([self.lips(f"upper_{kind}", t), self.lips(f"lower_{kind}", t[::-1])])

    # ---- points ------------------------------------------------------------------------------------

    def features(self) -> np.ndarray:
        """All points of the 98 layout but the jaw's: (65, 2), in its order from index 33."""
        along = np.array([0.0, 0.26, 0.52, 0.78, 1.0])
        back = np.array([1.0, 0.74, 0.48, 0.22])
        lids = np.array(LID_STEPS)
        points = [
            self.brow(-1, True, along),
            self.brow(-1, False, back),
            self.brow(1, True, along[::-1]),
            self.brow(1, False, back[::-1]),
            self.ridge(),
            self.nose_base(),
        ]
        for side in (-1, 1):
            outer, inner = (corner[None] for corner in self.eye_corners(side))
            upper, lower = self.lid(side, True, lids), self.lid(side, False, lids)
            if side < 0:
                points += [outer, upper, inner, lower[::-1]]
            else:
                points += [inner, upper[::-1], outer, lower]
        outside = np.array([-1.0, -0.62, -0.26, 0.0, 0.26, 0.62, 1.0])
        inside = np.array([-0.9, -0.38, 0.0, 0.38, 0.9])
        points += [
            self.lips("upper_outer", outside),
            self.lips("lower_outer", outside[-2:0:-1]),
            self.lips("upper_inner", inside),
            self.lips("lower_inner", inside[-2:0:-1]),
            self.pupil(-1)[None],
            self.pupil(1)[None],
        ]
        return np.concatenate(points)
