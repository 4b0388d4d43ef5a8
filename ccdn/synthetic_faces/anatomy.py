"""Curves and named points of a face in front view, and the order in which benchmarks list them.

Everything here is two-dimensional: x and y of the head frame; `head.py` lifts it onto the
surface. One set of curves serves the painting and the landmarks, so that an annotation lies
exactly on what is seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ccdn.synthetic_faces.parameters import Expression, Identity

# A face has the 98 points of WFLW and, after them, eight that only iBUG's 68 points have: WFLW
# divides a lid in quarters, iBUG in thirds.
ALL_POINTS = 106
# Points of the 68 layout among them: jaw every second, brows their upper edge, thirds of the lids,
# everything else as it is.
SIXTY_EIGHT = np.array(
    [
        *(*range(0, 33, 2), *range(33, 38), *range(42, 47), *range(51, 60)),
        *(60, 98, 99, 64, 100, 101, 68, 102, 103, 72, 104, 105),
        *range(76, 96),
    ]
)
# COFW's and AFLW's points as means of points of the 98 layout.
_TWENTY_NINE = (
    *((33,), (46,), (37, 38), (42, 50)),  # brows: outer ends, inner ends
    *((35,), (40,), (44,), (48,)),  # middles: left upper and lower edge, right upper and lower
    *((60,), (72,), (64,), (68,)),  # eyes: outer corners, inner corners
    *((62,), (66,), (70,), (74,), (96,), (97,)),  # lids: left upper and lower, right; pupils
    *((55,), (59,), (54,), (57,)),  # nose: wings, tip, base
    *((76,), (82,), (79,), (90,), (94,), (85,)),  # mouth: corners, then from top to bottom
    (16,),  # chin
)
_NINETEEN = (
    *((33,), (35, 40), (37, 38), (42, 50), (44, 48), (46,)),  # brows: left to right
    *((60,), (62, 66), (64,), (68,), (70, 74), (72,)),  # eyes: corners and, between them, centres
    *((55,), (54,), (59,)),  # nose
    *((76,), (90, 94), (82,)),  # mouth
    (16,),  # chin
)
MEANS_OF_98: dict[int, tuple[tuple[int, ...], ...]] = {29: _TWENTY_NINE, 19: _NINETEEN}
LAYOUTS = (19, 29, 68, 98)


def in_layout(points: np.ndarray, count: int) -> np.ndarray:
    """All points of a face (106, k) in a layout: (count, k), of the same dtype."""
    if count == 98:
        return points[:98]
    if count == 68:
        return points[SIXTY_EIGHT]
    return np.stack([points[list(group)].mean(axis=0) for group in MEANS_OF_98[count]])


def visible_in_layout(visible: np.ndarray, count: int) -> np.ndarray:
    """The same for visibility (106,) bool: a mean can be seen where all of its points can."""
    if count in MEANS_OF_98:
        return np.array([visible[list(group)].all() for group in MEANS_OF_98[count]])
    return in_layout(visible[:, None], count)[:, 0]


JAW_POINTS = 33

# Where the curves are sampled; the landmarks are among the samples.
_LID_T = np.linspace(0, 1, 13)
_LID_BOW = np.power(4 * _LID_T * (1 - _LID_T), 0.72)
_BROW_T = np.linspace(0, 1, 9)
_BROW_PEAK = 1 - ((_BROW_T - 0.38) / 0.62) ** 2
# Thin at the tail, round at the head: there, too, the end of a brow is half-way up.
_BROW_BODY = 0.25 + 0.75 * np.minimum(1.0, _BROW_T / 0.55)
_BROW_BODY[-1] = 0.4
LIP_T = np.linspace(-1, 1, 17)
_LIP_GAP = np.power(1 - LIP_T**2, 0.6)
_LIP_CRESCENT = 1 - LIP_T**2
_LIP_UPPER = np.power(1 - LIP_T**2, 0.8)
_LIP_LOWER = np.power(1 - LIP_T**2, 0.7)
_LIP_CUPID = np.exp(-((LIP_T / 0.13) ** 2)) - 0.6 * np.exp(-(((abs(LIP_T) - 0.26) / 0.2) ** 2))
_LIP_CUPID[[0, -1]] = 0.0


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

    # ---- eyes and brows; side is -1 for the left of the picture, +1 for the right --------------

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

    def lid(self, side: int, upper: bool, extra: float = 0.0) -> np.ndarray:
        """Points (13, 2) of a lid's edge, from the outer to the inner corner.

        `extra` moves the middle away from the eye: the crease, or the rim of the socket.
        """
        line = self._lids[side, upper].copy()
        if extra:
            line[:, 1] += -extra * self._upper_bow if upper else extra * _LID_BOW
        return line

    @cached_property
    def _upper_bow(self) -> np.ndarray:
        return _LID_BOW * (1 + self.identity.eye_peak * (_LID_T - 0.5))

    @cached_property
    def _lids(self) -> dict[tuple[int, bool], np.ndarray]:
        """Lids by side and whether it is the upper one."""
        i = self.identity
        wide = 1 + 0.25 * max(0.0, self.expression.raised)
        cheek = 1 - 0.35 * max(0.0, self.smile)
        lids = {}
        for side in (-1, 1):
            outer, inner = self.eye_corners(side)
            shut = self.shut(side)
            low = i.eye_lower * cheek * (1 - 0.35 * shut)
            high = -i.eye_upper * wide * (1 - shut) + low * shut
            straight = outer + _LID_T[:, None] * (inner - outer)
            for upper in (True, False):
                line = straight.copy()
                line[:, 1] += high * self._upper_bow if upper else low * _LID_BOW
                lids[side, upper] = line
        return lids

    def eye_outline(self, side: int) -> np.ndarray:
        """The opening between the lids as a polygon (24, 2)."""
        return np.concatenate([self.lid(side, True), self.lid(side, False)[-2:0:-1]])

    def pupil(self, side: int) -> np.ndarray:
        """Centre of the pupil, (2,)."""
        i, e = self.identity, self.expression
        outer, inner = self.eye_corners(side)
        middle = (outer + inner) / 2 + np.array([0.0, -0.35 * i.eye_upper + 0.3 * i.eye_lower])
        return middle + np.array([e.gaze_x * 0.30 * i.eye_half, e.gaze_y * 0.35 * i.eye_upper])

    def brow(self, side: int, upper: bool) -> np.ndarray:
        """Points (9, 2) of a brow's edge, from the outer to the inner end."""
        return self._brows[side, upper].copy()

    @cached_property
    def _brows(self) -> dict[tuple[int, bool], np.ndarray]:
        """Brows' edges by side and whether it is the upper one."""
        i, e, t = self.identity, self.expression, _BROW_T
        inner_x = i.brow_inner - 0.03 * e.frown
        x = i.brow_outer + (inner_x - i.brow_outer) * t
        rise = 0.11 * e.raised
        arch = i.brow_arch * (1 + 0.5 * max(0.0, e.raised))
        y = i.brow_y - rise - arch * _BROW_PEAK + i.brow_tilt * (t - 0.5)
        y += (0.09 * e.frown) * t**2 + 0.08 * (1 - t) ** 4
        brows = {}
        for side in (-1, 1):
            for upper in (True, False):
                edge = np.empty((len(t), 2))
                edge[:, 0] = side * x
                half = (-0.5 if upper else 0.5) * i.brow_thick
                edge[:, 1] = y + half * _BROW_BODY + side * i.asymmetry
                brows[side, upper] = edge
        return brows

    # ---- nose ----------------------------------------------------------------------------------

    @cached_property
    def tip_y(self) -> float:
        """Height of the tip of the nose."""
        return self.identity.nose_y - self.identity.nose_tip

    @cached_property
    def nose_half(self) -> float:
        """Half the width between the wings, wider in a smile."""
        return self.identity.nose_half * (1 + 0.10 * max(0.0, self.smile))

    def ridge(self) -> np.ndarray:
        """Four points (4, 2) from the root, just above the line of the eyes, to the tip."""
        y = np.linspace(-0.02, self.tip_y, 4)
        return np.array([np.zeros(4), y]).T

    def nose_base(self) -> np.ndarray:
        """Five points (5, 2) under the nose, wing to wing."""
        x = np.array([-0.74, -0.38, 0.0, 0.38, 0.74]) * self.nose_half
        y = self.identity.nose_y + np.array([-0.02, 0.012, 0.026, 0.012, -0.02])
        return np.array([x, y]).T

    # ---- mouth ---------------------------------------------------------------------------------

    @cached_property
    def lips(self) -> dict[str, np.ndarray]:
        """The edges of the lips, each (17, 2) from the left corner in the picture to the right one.

        The keys are upper_outer, upper_inner, lower_inner and lower_outer; all meet in the corners.
        """
        i, e, t = self.identity, self.expression, LIP_T
        smile = max(0.0, e.smile)
        lift = -0.15 * e.smile * (1 if e.smile > 0 else 0.6) + 0.45 * self.drop
        corner = self.mouth_y + lift * t**2 + 0.6 * e.skew * t
        # A smile stretches the lips thin, the upper one more.
        pout = 1 + 0.3 * e.pucker - 0.22 * smile
        thin = 1 + 0.3 * e.pucker - 0.38 * smile
        up_gap = 0.045 * e.part + 0.10 * self.drop
        down_gap = 0.085 * e.part * (1 + 0.4 * smile) + 0.92 * self.drop
        # An open mouth is round, a smiling one a crescent.
        gap = _LIP_GAP + smile * (_LIP_CRESCENT - _LIP_GAP)
        upper = corner - up_gap * gap
        lower = corner + down_gap * gap
        edges = {
            "upper_outer": upper - i.lip_upper * thin * _LIP_UPPER + i.cupid * _LIP_CUPID,
            "upper_inner": upper,
            "lower_inner": lower,
            "lower_outer": lower + i.lip_lower * pout * _LIP_LOWER,
        }
        x = t * self.mouth_half + e.skew
        return {name: np.array([x, y]).T for name, y in edges.items()}

    def mouth_outline(self, inner: bool) -> np.ndarray:
        """The lips' outer outline, or the opening between them, as a polygon."""
        kind, cut = ("inner", slice(1, -1)) if inner else ("outer", slice(None))
        upper, lower = self.lips[f"upper_{kind}"][cut], self.lips[f"lower_{kind}"][cut]
        return np.concatenate([upper, lower[::-1]])

    # ---- points --------------------------------------------------------------------------------

    def features(self) -> np.ndarray:
        """All points but the jaw's: (73, 2), in order from index 33."""
        points = [
            self.brow(-1, True)[::2],
            self.brow(-1, False)[:0:-2],
            self.brow(1, True)[::-2],
            self.brow(1, False)[2::2],
            self.ridge(),
            self.nose_base(),
            self.lid(-1, True)[::3],
            self.lid(-1, False)[9:0:-3],
            self.lid(1, True)[::-3],
            self.lid(1, False)[3:-1:3],
        ]
        lips = self.lips
        points += [
            lips["upper_outer"][[0, 3, 6, 8, 10, 13, 16]],
            lips["lower_outer"][[13, 10, 8, 6, 3]],
            # Those beside the middle lie under the peaks of the upper lip.
            lips["upper_inner"][[1, 6, 8, 10, 15]],
            lips["lower_inner"][[10, 8, 6]],
            self.pupil(-1)[None],
            self.pupil(1)[None],
            self.lid(-1, True)[[4, 8]],
            self.lid(-1, False)[[8, 4]],
            self.lid(1, True)[[8, 4]],
            self.lid(1, False)[[4, 8]],
        ]
        return np.concatenate(points)
