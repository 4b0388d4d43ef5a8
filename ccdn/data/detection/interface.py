"""What a face detector is: pictures in, boxes with scores out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True, eq=False)
class Detections:
    """The N faces that a detector found in a picture, largest first.

    boxes: (N, 4) float64 x0 y0 x1 y1 in pixels, where a detector's box is moved and scaled to the
    box around a face's landmarks, brows to chin, that networks are trained with. scores: (N,)
    float64 in [0, 1]. keypoints: (N, 5, 2) float64 pixels or None: the eyes, the tip of the nose,
    the corners of the mouth, each pair from left to right as an upright face shows it. rolls: (N,)
    float64, degrees by which each face is turned clockwise, as far as the detector knows.

    Raises ValueError for arrays of other shapes.
    """

    boxes: np.ndarray
    scores: np.ndarray
    keypoints: np.ndarray | None = None
    rolls: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        count = len(self.scores)
        if not len(self.rolls):
            object.__setattr__(self, "rolls", np.zeros(count))
        shapes = {"boxes": (count, 4), "scores": (count,), "rolls": (count,)}
        if self.keypoints is not None:
            shapes["keypoints"] = (count, 5, 2)
        for name, shape in shapes.items():
            found = getattr(self, name).shape
            if found != shape:
                raise ValueError(f"{name} of detections: expected {shape}, found {found}")

    def __len__(self) -> int:
        return len(self.scores)

    def some(self, chosen: Sequence[int] | np.ndarray) -> Detections:
        """The detections at these indices, in this order."""
        kept = np.asarray(chosen, int)
        keypoints = None if self.keypoints is None else self.keypoints[kept]
        return Detections(self.boxes[kept], self.scores[kept], keypoints, self.rolls[kept])

    def largest_first(self) -> Detections:
        """The same, ordered by area; equal ones from top to bottom."""
        sides = self.boxes[:, 2:] - self.boxes[:, :2]
        x, y = self.boxes[:, 0], self.boxes[:, 1]
        return self.some(np.lexsort((x, y, -sides.prod(1))))

    @classmethod
    def none(cls) -> Detections:
        """No face."""
        return cls(np.zeros((0, 4)), np.zeros(0))


class Detector(Protocol):
    """Finds faces. `name` says which detector it is, for records; several threads may share one."""

    name: str

    def detect(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """The faces of each picture, uint8 RGB (H, W, 3)."""
        ...


class CallableDetector:
    """A detector of a function that takes one picture, uint8 RGB (H, W, 3).

    It returns Detections; boxes (N, 4), each around a face from brows to chin; or a pair of boxes
    and scores (N,). A face without a score has 1. Raises ValueError for any other result.
    """

    def __init__(self, function: Callable[[np.ndarray], Any]) -> None:
        self.function = function
        self.name = str(getattr(function, "__name__", type(function).__name__))

    def detect(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """The faces of each picture, uint8 RGB (H, W, 3), in the function's order."""
        return [self._checked(self.function(image)) for image in images]

    def _checked(self, found: Any) -> Detections:
        if isinstance(found, Detections):
            return found
        pair = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
        try:
            boxes = np.asarray(pair[0], np.float64)
            boxes = boxes.reshape(-1, 4) if not boxes.size else boxes
            scores = np.ones(len(boxes)) if pair[1] is None else np.asarray(pair[1], np.float64)
            return Detections(boxes, scores)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"detector {self.name}: expected Detections, boxes (N, 4), or boxes and scores"
                f" (N,), found {type(found).__name__} ({error})"
            ) from None
