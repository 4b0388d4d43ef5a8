"""The surface of a head: an outline, a profile, and reliefs for nose, eyes, lips and chin.

A horizontal section of the head at height y is a half superellipse in front and a half ellipse
behind, of half width w(y); angle a runs around it, 0 at the nose and 90 degrees at the side, so
that x = w(y) sin a. Reliefs are added along z as a map over the front view. The lower jaw's
outline is where a is 90 degrees.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from ccdn.synthetic_faces.anatomy import JAW_POINTS, Anatomy

WIDEST = 0.05  # height at which the head is widest
ROWS, COLUMNS = 72, 80  # of the coarse mesh
BEHIND = np.deg2rad(172.0)  # how far around the mesh goes
JAW_ANGLE = np.deg2rad(86.0)  # where on the side the jaw's landmarks lie: before the ear
EVENLY = np.linspace(-1, 1, JAW_POINTS)
JAW_TOP = 0.0  # they begin at the height of the eyes
RELIEF_DENSITY = 32.0  # cells of the relief map per head unit
# The reach is a whole number of cells, so that the map is symmetric.
_RELIEF_X, _RELIEF_TOP, _RELIEF_BOTTOM = 1.25, -1.125, 2.25
_STEEP = np.linspace(0, 1, 120) ** 2  # from the end of the outline to its widest place
# Steps of the walk from the jaw towards the middle of the face.
_WALK = (np.linspace(0, 1, 24) ** 2 * 0.62)[None, :, None]


def _front(sine: np.ndarray, cosine: np.ndarray) -> np.ndarray:
    """How far forward a section comes at an angle, 0 (the side, and all behind) to 1."""
    return np.power(np.maximum(1 - np.abs(sine) ** 2.35, 0), 0.46) * (cosine > 0)


# Angles (COLUMNS,) of the mesh, closest in front.
_MESH_T = np.linspace(-1, 1, COLUMNS)
MESH_ANGLES = BEHIND * (0.6 * _MESH_T + 0.4 * _MESH_T**3)
_MESH_T = np.linspace(-1, 1, ROWS)
_MESH_ROWS = 0.55 * _MESH_T + 0.45 * np.sin(np.pi / 2 * _MESH_T)
_MESH_SINE, _MESH_COSINE = (f(MESH_ANGLES).astype(np.float32) for f in (np.sin, np.cos))
_MESH_FRONT = _front(_MESH_SINE, _MESH_COSINE).astype(np.float32)


def _bell(values: np.ndarray, centre: float, width: float) -> np.ndarray:
    return np.exp(-(((values - centre) / width) ** 2))


# The relief map's columns and rows, and what of it is the same in every face.
_RELIEF_COLUMNS = np.arange(-_RELIEF_X, _RELIEF_X, 1 / RELIEF_DENSITY)
_RELIEF_ROWS = np.arange(_RELIEF_TOP, _RELIEF_BOTTOM, 1 / RELIEF_DENSITY)
_RIDGE_ACROSS = [_bell(_RELIEF_COLUMNS, 0.0, w) for w in (0.10, 0.105, 0.12, 0.125, 0.125, 0.13)]
_BROWS_ACROSS, _CHEEKS_ACROSS = (
    _bell(_RELIEF_COLUMNS, -x, width) + _bell(_RELIEF_COLUMNS, x, width)
    for x, width in ((0.42, 0.32), (0.64, 0.24))
)
_TEETH_ACROSS, _GROOVE_ACROSS, _CHIN_ACROSS = (
    _bell(_RELIEF_COLUMNS, 0.0, w) for w in (0.34, 0.30, 0.22)
)
_PAIR_WIDTHS = np.array([[0.085], [0.26], [0.17], [0.09]])  # of wings, sockets, balls, corners


def _outward(line: np.ndarray) -> np.ndarray:
    """Outward normals (n, 2), unit vectors, of an outline (n, 2) that runs from left to right."""
    normal = np.empty_like(line)
    normal[1:-1, 0] = line[:-2, 1] - line[2:, 1]
    normal[1:-1, 1] = line[2:, 0] - line[:-2, 0]
    normal[0] = line[0, 1] - line[1, 1], line[1, 0] - line[0, 0]
    normal[-1] = line[-2, 1] - line[-1, 1], line[-1, 0] - line[-2, 0]
    return normal / np.hypot(normal[:, 0], normal[:, 1])[:, None]


def _hat(values: np.ndarray, knots: np.ndarray, heights: np.ndarray) -> np.ndarray:
    return np.interp(values, knots, heights, left=0.0, right=0.0)


@dataclass(frozen=True)
class Head:
    """The surface that belongs to an anatomy."""

    anatomy: Anatomy

    @cached_property
    def _profile(self) -> tuple[np.ndarray, np.ndarray]:
        """Heights (n,), and front, side and back of the section there in z, (n, 3)."""
        i, an = self.anatomy.identity, self.anatomy
        mouth, chin = an.mouth_y + 0.4 * an.drop, an.chin_y
        groove = mouth + 0.38 * (chin - mouth)
        knots = np.array(
            [
                # height, front, side, back
                (-i.crown, 1.12, -0.10, 1.45),
                (-1.0, 1.22, -0.05, 1.45),
                (-0.5, 1.27, 0.00, 1.40),
                (-0.2, 1.25, 0.02, 1.36),
                (0.1, 1.19, 0.03, 1.30),
                (0.4, 1.20, 0.04, 1.00),
                (i.nose_y, 1.25, 0.06, 0.72),
                (mouth, 1.17, 0.16, 0.60),
                (groove, 1.16, 0.38, 0.55),
                # The lowest point of the chin lies behind the foremost, by a seventh.
                (chin - 0.20, 1.18 - 0.10 * an.drop, 0.66, 0.45),
                (chin, 1.14 - 0.10 * an.drop, 1.02, 0.30),
            ]
        )
        y = np.linspace(-i.crown, chin, 160)
        rows = np.stack([np.interp(y, knots[:, 0], knots[:, k]) for k in (1, 2, 3)], axis=1)
        rows = cv2.GaussianBlur(rows, (1, 21), 0, sigmaY=4.0, borderType=cv2.BORDER_REPLICATE)
        return y, rows * i.depth

    @cached_property
    def _widths(self) -> tuple[np.ndarray, np.ndarray]:
        """Heights (n,), closest at crown and chin where the outline is steep, and half widths."""
        i, chin = self.anatomy.identity, self.anatomy.chin_y
        top = np.power(1 - (1 - _STEEP) ** 3.5, 0.5)
        bottom = np.power(1 - (1 - _STEEP) ** i.square, i.pointed)
        y_top = WIDEST - (1 - _STEEP) * (WIDEST + i.crown)
        y_bottom = WIDEST + (1 - _STEEP) * (chin - WIDEST)
        y = np.concatenate([y_top, y_bottom[-2::-1]])
        return y, np.concatenate([top, bottom[-2::-1]]) * i.width

    def half_width(self, y: np.ndarray) -> np.ndarray:
        """Half the width of the head at heights y."""
        return np.interp(y, *self._widths)

    # ---- relief --------------------------------------------------------------------------------

    @cached_property
    def relief(self) -> np.ndarray:
        """Heights over the smooth head, a map over the front view (float32)."""
        i, e, an = self.anatomy.identity, self.anatomy.expression, self.anatomy
        x, y = _RELIEF_COLUMNS, _RELIEF_ROWS
        base, tip, smile = i.nose_y, an.tip_y, max(0.0, e.smile)
        m, half = an.mouth_y, an.mouth_half
        high, top, bottom, low = (float(edge[8, 1]) for edge in an.lips.values())
        gape = max(bottom - top, 1e-6)
        # Bells across and down: (centre, width), those across on both sides.
        centres = np.array([0.72 * an.nose_half, i.eye_x, i.eye_x, half + 0.02])[:, None]
        wings, sockets, balls, corners = (
            np.exp(-(((x + centres) / _PAIR_WIDTHS) ** 2))
            + np.exp(-(((x - centres) / _PAIR_WIDTHS) ** 2))
        )  # fmt: skip
        rows = np.array(
            [
                (base - 0.085, 0.085),
                (-0.01, 0.16),
                (0.0, 0.12),
                (float(an.lips["upper_outer"][0, 1]), 0.07),
                (i.brow_y + 0.03, 0.11),
                (0.42 - 0.06 * smile, 0.22),
                (m + 0.45 * an.drop, 0.26),
                ((top + 2 * high) / 3, 0.6 * i.lip_upper),
                ((2 * bottom + low) / 3 + 0.01, 0.6 * i.lip_lower),
                ((top + bottom) / 2, 0.5 * gape),
                (low + 0.08, 0.07),
                (an.chin_y - 0.20, 0.14),
            ]
        )
        lip_x = np.maximum(1 - (x / (half + 0.03)) ** 2, 0)
        pout = 1 + 0.8 * e.pucker
        # The nose's wings; the eyes' sockets and the balls in them; the corners of the mouth;
        # brows, cheeks, the bulge of the teeth, two lips and the gap, the groove, the chin.
        across = [
            wings * 0.13,
            sockets * -0.15,
            balls * 0.085,
            corners * (-0.08 - 0.03 * smile),
            _BROWS_ACROSS * i.brow_ridge,
            _CHEEKS_ACROSS * (i.cheek + 0.05 * smile),
            _TEETH_ACROSS * 0.12,
            lip_x * (0.045 * pout),
            lip_x * (0.055 * pout),
            lip_x * (-0.06 * (gape > 0.03)),
            _GROOVE_ACROSS * -0.045,
            _CHIN_ACROSS * i.chin_out,
        ]
        down = list(np.exp(-(((y - rows[:, :1]) / rows[:, 1:]) ** 2)))
        # The nose: knots down the ridge, each with its own width.
        ridge = np.array(
            [-0.16, 0.02, 0.5 * tip, tip - 0.06, tip + 0.5 * (base - tip), base, base + 0.07]
        )
        share = np.array(
            [0.0, i.nose_ridge * 0.42, 0.5 * (i.nose_ridge * 0.42 + 1), 1.0, 0.80, 0.13, 0.0]
        )
        for k in range(1, 6):
            unit = np.zeros(7)
            unit[k] = share[k] * i.nose_out
            across.append(_RIDGE_ACROSS[k])
            down.append(_hat(y, ridge, unit))
        # Not a matrix product: its rounding may depend on the number of threads.
        downward, sideways = np.array(down, np.float32), np.array(across, np.float32)
        return cv2.GaussianBlur(np.einsum("ky,kx->yx", downward, sideways), (3, 3), 0.65)

    @staticmethod
    def relief_cell(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where front-view coordinates lie in the relief map: column and row, float32."""
        column = (np.asarray(x) + _RELIEF_X) * RELIEF_DENSITY
        row = (np.asarray(y) - _RELIEF_TOP) * RELIEF_DENSITY
        return column.astype(np.float32), row.astype(np.float32)

    # ---- surface -------------------------------------------------------------------------------

    @cached_property
    def _sections(self) -> tuple[np.ndarray, np.ndarray]:
        """Heights (n,) and the sections there, (n, 4): half width, and depth of the side, from it
        to the front, and from it to the back.
        """
        y, width = self._widths
        heights, rows = self._profile
        # The section shrinks to a point at crown and chin; its depth must do so with the width.
        reach = np.minimum(width / (0.62 * self.anatomy.identity.width), 1)
        closing = np.power(reach * (2 - reach), 0.8)
        upper = y < WIDEST
        table = np.empty((len(y), 4))
        table[:, 0] = width
        table[:, 1] = side = np.interp(y, heights, rows[:, 1])
        forward = np.interp(y, heights, rows[:, 0]) - side
        table[:, 2] = forward * np.where(upper, closing, 0.5 + 0.5 * closing)
        table[:, 3] = np.interp(y, heights, rows[:, 2]) * closing
        return y, table

    def _section(self, y: np.ndarray) -> np.ndarray:
        """Rows of the table of sections at heights y (n,), between its heights linear: (4, n)."""
        heights, table = self._sections
        place = np.interp(y, heights, np.arange(len(heights)))
        low = np.minimum(place.astype(np.intp), len(heights) - 2)
        below = table[low]
        return (below + (table[low + 1] - below) * (place - low)[:, None]).T

    def _depth(
        self, section: np.ndarray, round_: np.ndarray, cosine: np.ndarray, bump: np.ndarray
    ) -> np.ndarray:
        """z of the surface; arguments broadcast."""
        _, side, forward, rear = section
        z = side + forward * round_ + rear * np.minimum(cosine, 0)
        return z + bump * np.minimum(np.maximum(3.0 * cosine, 0), 1)

    def surface(self, angle: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Points (n, 3) at angles (n,) around the head and heights (n,)."""
        section = self._section(y)
        sine, cosine = np.sin(angle), np.cos(angle)
        points = np.empty((len(y), 3))
        points[:, 0] = x = section[0] * sine
        points[:, 1] = y
        points[:, 2] = self._depth(section, _front(sine, cosine), cosine, self._bump(x, y))
        return points

    def _bump(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The relief at front-view coordinates, of their shape."""
        cell = self.relief_cell(x, y)
        found = cv2.remap(self.relief, *cell, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return found.reshape(x.shape)

    def angle(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Angle around the head of front-view points."""
        return np.arcsin(np.clip(x / np.maximum(self.half_width(y), 1e-6), -1, 1))

    def lift(self, points: np.ndarray) -> np.ndarray:
        """Front-view points (n, 2) on the surface, (n, 3)."""
        x, y = points.T
        return self.surface(self.angle(x, y), y)

    @cached_property
    def mesh_heights(self) -> np.ndarray:
        """Heights (ROWS,) of the mesh, from crown to chin, closest at both ends."""
        # Not quite to the chin: a row that is one point has no normal, and would look dark.
        top, bottom = -self.anatomy.identity.crown, self.anatomy.chin_y - 4e-4
        return (top + bottom) / 2 + (bottom - top) / 2 * _MESH_ROWS

    @cached_property
    def mesh_cells(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the mesh lies in the relief map: column and row, (ROWS, COLUMNS) float32."""
        x = self._mesh_sections[0] * _MESH_SINE
        column, row = self.relief_cell(x, self.mesh_heights[:, None])
        return column, np.ascontiguousarray(np.broadcast_to(row, x.shape))

    @cached_property
    def _mesh_sections(self) -> np.ndarray:
        return self._section(self.mesh_heights)[..., None].astype(np.float32)

    @cached_property
    def mesh(self) -> np.ndarray:
        """The mesh (ROWS, COLUMNS, 3) float32: `surface` over MESH_ANGLES and mesh_heights."""
        section = self._mesh_sections
        bump = cv2.remap(
            self.relief, *self.mesh_cells, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        mesh = np.empty((ROWS, COLUMNS, 3), np.float32)
        np.multiply(section[0], _MESH_SINE, out=mesh[..., 0])
        mesh[..., 1] = self.mesh_heights[:, None]
        mesh[..., 2] = self._depth(section, _MESH_FRONT, _MESH_COSINE, bump)
        return mesh

    # ---- jaw -----------------------------------------------------------------------------------

    @cached_property
    def _jaw_line(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Half of the jaw's outline in front view: lengths from the ear, x and y, each (n,)."""
        y = np.linspace(JAW_TOP, self.anatomy.chin_y, 240)
        x = self.half_width(y) * np.sin(JAW_ANGLE)
        along = np.zeros(len(y) + 1)
        np.cumsum(np.hypot(x[1:] - x[:-1], y[1] - y[0]), out=along[1:-1])
        # The last step closes the outline under the chin.
        along[-1] = along[-2] + x[-1]
        return along, np.append(x, 0.0), np.append(y, y[-1])

    def jaw(self, shares: np.ndarray = EVENLY) -> np.ndarray:
        """Points (n, 2) of the jaw's outline in front view.

        shares: (n,), the way from the chin to the ears: -1 at the left one, 0 at the chin, 1.
        """
        along, x, y = self._jaw_line
        at = (1 - np.abs(shares)) * along[-1]
        points = np.empty((len(shares), 2))
        points[:, 0] = np.sign(shares) * np.interp(at, along, x)
        points[:, 1] = np.interp(at, along, y)
        return points

    @cached_property
    def jaw_paths(self) -> tuple[np.ndarray, np.ndarray]:
        """The walks of `walks_from` the jaw's points evenly spaced in front view."""
        return self._annotated[0], _outward(self.jaw())

    def walks_from(self, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Walks from points of the jaw (33,), in shares, towards the middle of the face.

        Returns points (33, steps, 3) and the outward normals (33, 2) of the outline in front
        view. Where the head is turned, an annotator marks the visible outline: the point of the
        walk that lies farthest out in the picture.
        """
        start = self.jaw(shares)
        return self._lifted(start, np.empty((0, 2)))[0], _outward(start)

    @property
    def features(self) -> np.ndarray:
        """All points but the jaw's, (73, 3), on the surface."""
        return self._annotated[1]

    @cached_property
    def _annotated(self) -> tuple[np.ndarray, np.ndarray]:
        """The walks of `jaw_paths` and `features`: the surface is asked once for both."""
        return self._lifted(self.jaw(), self.anatomy.features())

    def _lifted(self, start: np.ndarray, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Walks from points of the jaw (n, 2), and other points (m, 2), on the surface."""
        # Towards the middle of the face, at the height of the eyes hardly downwards.
        goal = np.zeros_like(start)
        goal[:, 1] = np.minimum(0.62 * self.anatomy.mouth_y, start[:, 1] + 0.3)
        flat = start[:, None, :] + _WALK * (goal - start)[:, None, :]
        walks = flat.shape[0] * flat.shape[1]
        x, y = np.concatenate([flat.reshape(walks, 2), features]).T
        angle = self.angle(x, y)
        # On the sides walk along the section, from the jaw's own angle: x alone is blunt there.
        walk = angle[:walks].reshape(flat.shape[:2])
        first = np.minimum(np.maximum(walk[:, :1], -JAW_ANGLE), JAW_ANGLE)
        walk[:] = np.where(np.abs(walk) > np.abs(first), first, walk)
        points = self.surface(angle, y)
        return points[:walks].reshape(*flat.shape[:2], 3), points[walks:]
