"""`SyntheticFaces`: the data set that training, evaluation and export use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ccdn.data.faces import Face, Skipped
from ccdn.synthetic_faces.anatomy import LAYOUTS, Anatomy, visible_in_layout
from ccdn.synthetic_faces.camera import View, look_at
from ccdn.synthetic_faces.canvas import Canvas
from ccdn.synthetic_faces.head import Head
from ccdn.synthetic_faces.lens import photograph
from ccdn.synthetic_faces.look import sample_light, sample_look
from ccdn.synthetic_faces.occluders import glasses, occlude
from ccdn.synthetic_faces.parameters import (
    VERSION,
    as_dict,
    look_stream,
    sample_expression,
    sample_identity,
    sample_pose,
    shape_stream,
)
from ccdn.synthetic_faces.render import render_head
from ccdn.synthetic_faces.scene import back_hair, background, body, ears, over
from ccdn.synthetic_faces.skin import paint_face

POSE = (45.0, 25.0, 30.0)
_PITCH_OF_YAW, _ROLL_OF_YAW = 5 / 9, 2 / 3
_KEPT = 64  # views kept in memory


@dataclass(frozen=True)
class Picture:
    """A picture and, for all 106 points, whether each can be seen in it; and those of WFLW's
    attributes that the drawing decides.
    """

    pixels: np.ndarray
    visible: np.ndarray
    attributes: dict[str, bool]


class SyntheticFaces:
    """Faces drawn and rendered on demand; face i depends on (VERSION, seed, i) and the settings
    only.

    Arguments: `count` faces; `seed`; `points` 68 (iBUG order), 98 (WFLW), 29 (COFW) or 19 (AFLW);
    `size`, side of the square picture in pixels; `pose`, the largest yaw, pitch and roll to
    either side in degrees, or one number, that of yaw, with pitch and roll in proportion;
    `occlusion`, the share of faces with something in front of them; `fresh`, whether every epoch
    has its own faces: face i of epoch e is then face e * count + i. Raises ValueError for values
    outside these.

    The jaw's points lie on the visible outline of the face, as annotators put them; all others
    are fixed points of the surface. `image(i)` is uint8 RGB, bit-identical on one machine. Several
    threads may share a set.
    """

    def __init__(
        self,
        count: int,
        seed: int = 0,
        points: int = 68,
        size: int = 160,
        pose: float | tuple[float, float, float] = POSE,
        occlusion: float = 0.2,
        fresh: bool = False,
    ) -> None:
        if count < 1:
            raise ValueError(f"count of synthetic faces: found {count}, expected at least 1")
        if seed < 0:
            raise ValueError(f"seed of synthetic faces: found {seed}, expected 0 or more")
        if points not in LAYOUTS:
            known = ", ".join(map(str, LAYOUTS))
            raise ValueError(f"points of synthetic faces: found {points}, expected one of {known}")
        if not 32 <= size <= 1024:
            raise ValueError(f"size of synthetic faces: found {size}, expected 32 to 1024 pixels")
        if not 0 <= occlusion <= 1:
            raise ValueError(f"occlusion of synthetic faces: found {occlusion}, expected 0 to 1")
        self.count, self.seed, self.points, self.size = count, seed, points, size
        self.pose = _pose_range(pose)
        self.occlusion = occlusion
        self.fresh = fresh
        self._first = 0  # what the epoch adds to an index
        self.name = f"synthetic-{VERSION}-seed{seed}"
        self.skipped = Skipped()
        self._views: dict[int, View] = {}
        self._last: tuple[int, Picture] | None = None

    def __len__(self) -> int:
        return self.count

    def __repr__(self) -> str:
        return f"SyntheticFaces({self.name!r}, {self.count} faces, {self.points} points)"

    def set_epoch(self, epoch: int) -> None:
        """Go to the faces of an epoch; they are the same in all epochs unless `fresh`."""
        self._first = epoch * self.count if self.fresh else 0

    def face(self, index: int) -> Face:
        """Landmarks (points, 2) float32 and a box as a detector would give it; renders nothing."""
        index = self._checked(index)
        landmarks = self._view(index).landmarks(self.points)
        return Face(f"{self.name}-{index:06d}", landmarks, self._box(index, landmarks), "synthetic")

    def image(self, index: int) -> np.ndarray:
        """The picture of face `index`: uint8 RGB, (size, size, 3)."""
        return self._picture(self._checked(index)).pixels.copy()

    def visible(self, index: int) -> np.ndarray:
        """Whether each landmark can be seen, (points,) bool: not behind head, hair or object."""
        return visible_in_layout(self._picture(self._checked(index)).visible.copy(), self.points)

    def attributes(self, index: int) -> dict[str, bool]:
        """The face's difficulties, by WFLW's names: pose, expression, illumination, makeup,
        occlusion, blur.
        """
        drawn = self.parameters(index)
        pose, face = drawn["pose"], drawn["expression"]
        strong = face["open"] > 0.35 or max(face["close_left"], face["close_right"]) > 0.7
        return {
            "pose": max(abs(pose["yaw"]) / 30, abs(pose["pitch"]) / 20, abs(pose["roll"]) / 40) > 1,
            "expression": strong or face["pucker"] > 0.6 or face["raised"] > 0.7,
            **self._picture(self._checked(index)).attributes,
        }

    def parameters(self, index: int) -> dict[str, dict[str, float]]:
        """What was drawn for a face: identity, expression and pose by name."""
        view_of = shape_stream(self.seed, self._checked(index))
        identity, expression = sample_identity(view_of), sample_expression(view_of)
        pose = sample_pose(view_of, self.pose)
        return {
            "identity": as_dict(identity),
            "expression": as_dict(expression),
            "pose": as_dict(pose),
        }

    def describe(self) -> dict[str, Any]:
        """What a report must state so that these faces can be made again."""
        return {
            "generator": "ccdn.synthetic_faces",
            "version": VERSION,
            "count": self.count,
            "seed": self.seed,
            "points": self.points,
            "size": self.size,
            "largest_yaw_pitch_roll": list(self.pose),
            "occlusion": self.occlusion,
            "fresh": self.fresh,
        }

    # ---- inside --------------------------------------------------------------------------------

    def _checked(self, index: int) -> int:
        if not 0 <= index < self.count:
            raise IndexError(f"face {index} of {self.count} synthetic faces")
        return self._first + int(index)

    def _view(self, index: int) -> View:
        view = self._views.get(index)
        if view is not None:
            return view
        draw = shape_stream(self.seed, index)
        identity, expression = sample_identity(draw), sample_expression(draw)
        pose = sample_pose(draw, self.pose)
        view = look_at(Head(Anatomy(identity, expression)), pose, self.size)
        # Several threads may run this: each step is atomic, and no thread gets another one's view.
        self._views[index] = view
        for oldest in list(self._views)[:-_KEPT]:
            self._views.pop(oldest, None)
        return view

    def _box(self, index: int, landmarks: np.ndarray) -> np.ndarray:
        """The landmarks' box, moved and scaled by a few percent."""
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, index, 2])))
        low, high = landmarks.min(axis=0), landmarks.max(axis=0)
        extent = high - low
        middle = (low + high) / 2 + extent * np.clip(rng.normal(0, 0.025, 2), -0.05, 0.05)
        half = extent / 2 * np.exp(np.clip(rng.normal(0.02, 0.04, 2), -0.08, 0.12))
        return np.concatenate([middle - half, middle + half]).astype(np.float32)

    def _picture(self, index: int) -> Picture:
        last = self._last  # once: another thread may put another picture there
        if last is None or last[0] != index:
            self._last = last = (index, self._render(index))
        return last[1]

    def _render(self, index: int) -> Picture:
        view = self._view(index)
        anatomy, size = view.head.anatomy, self.size
        draw = look_stream(self.seed, index)
        look = sample_look(draw)
        light = sample_light(draw, look.skin)
        canvas = Canvas(view.head, float(np.clip(1.05 * view.camera.scale, 24, 220)), look.skin)
        cover = paint_face(canvas, anatomy, look, draw)
        layer = render_head(view, canvas, cover, look, light, size, draw)
        picture = background(draw, size)
        back_hair(picture, view, look, light, draw)
        body(picture, view, look, light, draw)
        ears(picture, view, look, light, near=False)
        over(picture, layer)
        ears(picture, view, look, light, near=True)
        hidden = glasses(picture, view, layer, draw)
        hidden |= occlude(picture, view, layer, look, light, draw, self.occlusion)
        inside, behind, covered, hair = _hides(view.pixels, layer.depth, hidden, layer.hair)
        visible = inside & ~(behind | covered | hair)
        pixels, blurred = photograph(picture, draw)
        attributes = {
            "illumination": light.hard,
            "makeup": look.makeup > 0.5,
            "occlusion": bool((covered | ~inside).mean() > 0.05),
            "blur": blurred,
        }
        return Picture(pixels, visible, attributes)


def _pose_range(pose: float | tuple[float, float, float]) -> tuple[float, float, float]:
    if isinstance(pose, (int, float)):
        pose = (float(pose), _PITCH_OF_YAW * pose, _ROLL_OF_YAW * pose)
    largest = tuple(float(angle) for angle in pose)
    limits = (90.0, 60.0, 180.0)
    if len(largest) != 3 or any(not 0 <= a <= b for a, b in zip(largest, limits, strict=False)):
        raise ValueError(
            f"pose of synthetic faces: found {pose}, expected the largest yaw, pitch and roll in "
            f"degrees, from 0 to {limits[0]:.0f}, {limits[1]:.0f} and {limits[2]:.0f}"
        )
    return largest[0], largest[1], largest[2]


def _hides(
    pixels: np.ndarray, depth: np.ndarray, hidden: np.ndarray, hair: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Of points (n, 3): whether each is in the picture, behind the surface, under an object, and
    under hair.
    """
    size = depth.shape[0]
    column, row = (np.rint(pixels[:, k]).astype(int) for k in (0, 1))
    inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
    column, row = (np.minimum(np.maximum(place, 0), size - 1) for place in (column, row))
    covered = hidden[row, column]
    # On an outline depth falls steeply: a point is behind only what is nearer all around it.
    around = (
        np.minimum(np.maximum(row[:, None] + _AROUND[0], 0), size - 1),
        np.minimum(np.maximum(column[:, None] + _AROUND[1], 0), size - 1),
    )
    behind = depth[around].min(axis=1) > pixels[:, 2] + 0.10
    return inside, behind, covered, hair[around].all(axis=1)


_AROUND = np.indices((3, 3)).reshape(2, 1, 9) - 1
