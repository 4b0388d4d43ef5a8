"""What prediction gives: a face with its landmarks, scores and measures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

import numpy as np

from ccdn.data import Layout
from ccdn.data.drawing import draw_faces
from ccdn.inference.head_pose import HeadPose, head_pose
from ccdn.inference.scores import combined


class _Openings(NamedTuple):
    """Points of a closed outline: its two corners, and pairs from its upper and lower edge."""

    corners: tuple[int, int]
    pairs: tuple[tuple[int, int], ...]

    def ratio(self, points: np.ndarray) -> float:
        width = float(np.linalg.norm(points[self.corners[0]] - points[self.corners[1]]))
        heights = [float(np.linalg.norm(points[a] - points[b])) for a, b in self.pairs]
        return float(np.mean(heights)) / width if width > 0 else 0.0


# The eyes, left and right as seen in the picture, and the mouth's inner edge, by number of points.
_EYES = {
    68: (_Openings((36, 39), ((37, 41), (38, 40))), _Openings((42, 45), ((43, 47), (44, 46)))),
    98: (_Openings((60, 64), ((61, 67), (63, 65))), _Openings((68, 72), ((69, 75), (71, 73)))),
}
_MOUTHS = {
    68: _Openings((60, 64), ((61, 67), (62, 66), (63, 65))),
    98: _Openings((88, 92), ((89, 95), (90, 94), (91, 93))),
}


@dataclass(frozen=True, eq=False)
class Face:
    """One face of a picture.

    landmarks: (L, 2) float32 pixels, 0-based, x then y. box: (4,) float64 x0 y0 x1 y1, the face
    from brows to chin. score: in [0, 1], from the detector's score and the landmarks', those that
    are known: detection_score is None for a box that was given, landmark_score for a network
    without a known mirror permutation and without a spread. spread: (L,) float32 pixels,
    the error of x and y that the network expects for each point, None if it has not learned one.
    roll: degrees by which the face's crop was turned clockwise against the picture. id: of the face
    in a film, from 0; see `ccdn.inference.tracking`.
    """

    landmarks: np.ndarray
    box: np.ndarray
    layout: Layout
    detection_score: float | None = None
    landmark_score: float | None = None
    spread: np.ndarray | None = None
    roll: float = 0.0
    id: int | None = None

    @property
    def score(self) -> float:
        """`ccdn.inference.scores.combined` of both scores; that which is known, 1 if none is."""
        if self.landmark_score is None:
            return 1.0 if self.detection_score is None else self.detection_score
        if self.detection_score is None:
            return self.landmark_score
        return float(combined(self.detection_score, self.landmark_score))

    @property
    def trust(self) -> float:
        """The landmarks' score, 1 where it is not known."""
        return 1.0 if self.landmark_score is None else self.landmark_score

    def eye_aspect_ratio(self) -> tuple[float, float]:
        """Height of each eye by its width, left and right in the picture (Soukupová and Čech 2016):
        about 0.3 open, below 0.2 shut. Raises ValueError unless there are 68 or 98 points.
        """
        left, right = self._known(_EYES)
        return left.ratio(self.landmarks), right.ratio(self.landmarks)

    def mouth_aspect_ratio(self) -> float:
        """Mean height of the mouth's inner edge by its width: 0 for a shut mouth. Raises ValueError
        unless there are 68 or 98 points.
        """
        return float(self._known(_MOUTHS).ratio(self.landmarks))

    def head_pose(self) -> HeadPose:
        """Yaw, pitch and roll in degrees; see `ccdn.inference.head_pose`. Raises ValueError unless
        there are 68 or 98 points.
        """
        return head_pose(self.landmarks)

    def _known(self, table: dict[int, Any]) -> Any:
        if self.layout.points not in table:
            raise ValueError(f"expected 68 or 98 landmarks, found {self.layout.points}")
        return table[self.layout.points]

    def draw(self, image: np.ndarray) -> np.ndarray:
        """A copy of the picture, uint8 RGB (H, W, 3), with this face drawn into it."""
        return Faces([self], self.layout).draw(image)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in the JSON of ccdn predict: pixels to a thousandth, what is None left
        out.
        """
        values: dict[str, Any] = {
            "box": _rounded(self.box),
            "landmarks": _rounded(self.landmarks),
            "score": round(self.score, 4),
        }
        for name in ("detection_score", "landmark_score"):
            if (value := getattr(self, name)) is not None:
                values[name] = round(value, 4)
        if self.roll:
            values["roll"] = round(self.roll, 2)
        if self.spread is not None:
            values["spread"] = _rounded(self.spread)
        if self.id is not None:
            values["id"] = self.id
        return values


def _rounded(values: np.ndarray) -> list[Any]:
    found: list[Any] = np.round(np.asarray(values, np.float64), 3).tolist()
    return found


class Faces(Sequence[Face]):
    """The faces of a picture, in the detector's order, which is largest first, or that of the boxes
    that were given. Behaves as a list of `Face`.
    """

    def __init__(self, faces: Sequence[Face], layout: Layout) -> None:
        self._faces, self.layout = tuple(faces), layout

    def __len__(self) -> int:
        return len(self._faces)

    def __iter__(self) -> Iterator[Face]:
        return iter(self._faces)

    @overload
    def __getitem__(self, index: int) -> Face: ...
    @overload
    def __getitem__(self, index: slice) -> Faces: ...
    def __getitem__(self, index: int | slice) -> Face | Faces:
        found = self._faces[index]
        return found if isinstance(found, Face) else Faces(found, self.layout)

    def __repr__(self) -> str:
        scores = ", ".join(f"{face.score:.2f}" for face in self)
        return f"Faces({len(self)} faces{f', scores {scores}' if scores else ''})"

    @property
    def landmarks(self) -> np.ndarray:
        """Of all faces, (N, L, 2) float32 pixels."""
        empty = np.zeros((0, self.layout.points, 2), np.float32)
        return np.stack([face.landmarks for face in self]) if self._faces else empty

    @property
    def boxes(self) -> np.ndarray:
        """Of all faces, (N, 4) float64."""
        return np.reshape([face.box for face in self], (-1, 4)).astype(np.float64)

    @property
    def scores(self) -> np.ndarray:
        """Of all faces, (N,) float64."""
        return np.array([face.score for face in self], np.float64)

    def at_least(self, score: float) -> Faces:
        """Those with at least this score, and those in boxes that were given."""
        kept = [face for face in self if face.detection_score is None or face.score >= score]
        return Faces(kept, self.layout)

    def draw(self, image: np.ndarray) -> np.ndarray:
        """A copy of the picture, uint8 RGB (H, W, 3), with all faces drawn into it, and the ids of
        tracks.
        """
        labels = ["" if face.id is None else str(face.id) for face in self]
        return draw_faces(image, self.landmarks, self.boxes, self.layout, labels)

    def to_dict(self) -> list[dict[str, Any]]:
        """`Face.to_dict` of each."""
        return [face.to_dict() for face in self]
