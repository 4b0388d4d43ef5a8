"""Searches a picture for faces at several scales and, where none is surely upright, turned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from ccdn.data.detection.calibration import Calibration
from ccdn.data.detection.interface import Detections
from ccdn.data.images import cv2

# Longest sides, in pixels, of the pictures that are searched. A picture of up to ONE_SCALE pixels
# is searched as it is, a smaller one than LEAST enlarged, a larger one at COARSE pixels, where a
# face that fills it is of a size that detectors know, and at FINE, which limits the time.
LEAST, COARSE, ONE_SCALE, FINE = 320, 480, 640, 960
SAME_FACE = 0.6  # of the smaller box lies in the other one: two boxes of one face


class Finder(Protocol):
    """A detector's own search, of upright faces at one scale.

    name: as `detector` takes it. calibration: of its boxes. threshold: the least score of what may
    be a face. sure: the least score of a surely upright face: turned faces have less.
    `python benchmarks/calibrate_detectors.py` computes all three.
    """

    name: str
    calibration: Calibration
    threshold: float
    sure: float

    def find(self, image: np.ndarray) -> Detections:
        """The faces in a picture, uint8 RGB, contiguous, with its own boxes, in any order."""
        ...


class SearchingDetector:
    """A detector whose own search, `finder`, is given scaled and turned pictures."""

    def __init__(self, finder: Finder) -> None:
        self.finder = finder
        self.name = finder.name

    def detect(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """The faces of each picture, uint8 RGB (H, W, 3), largest first.

        A picture in which no face is surely upright is searched turned by 90, 180 and 270 degrees
        too, and each face found in several of them is taken where its score is highest.
        """
        return [self._detect(image) for image in images]

    def _detect(self, image: np.ndarray) -> Detections:
        sizes = _sizes(max(image.shape[:2]))
        found = _merge([self._at(image, size) for size in sizes])
        if not (found.scores >= self.finder.sure).any():
            coarse = min(sizes[0], COARSE)
            found = _merge([found, *(self._turned(image, turn, coarse) for turn in (1, 2, 3))])
        return found.largest_first()

    def _at(self, image: np.ndarray, longest: int) -> Detections:
        """What is found at the scale at which the longer side has so many pixels."""
        height, width = image.shape[:2]
        scale = longest / max(height, width)
        size = (max(1, round(scale * width)), max(1, round(scale * height)))
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        scaled = image if scale == 1 else cv2.resize(image, size, interpolation=how)
        found = self.finder.find(np.ascontiguousarray(scaled))
        found = found.some(np.flatnonzero(found.scores >= self.finder.threshold))
        factors = np.array([width, height]) / size
        boxes = self.finder.calibration.apply(found.boxes)
        points = found.keypoints
        return Detections(
            (boxes + 0.5) * np.tile(factors, 2) - 0.5,
            found.scores,
            None if points is None else (points + 0.5) * factors - 0.5,
            np.zeros(len(found)) if points is None else _rolls(points),
        )

    def _turned(self, image: np.ndarray, turn: int, longest: int) -> Detections:
        """What is found in the picture turned counter-clockwise by so many quarters."""
        found = self._at(np.rot90(image, turn), longest)
        size = image.shape[1], image.shape[0]
        corners = _turn_back(found.boxes.reshape(-1, 2, 2), turn, size)
        boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1)
        points = found.keypoints
        points = None if points is None else _turn_back(points, turn, size)
        return Detections(boxes, found.scores, points, found.rolls + 90.0 * turn)


def _sizes(longest: int) -> tuple[int, ...]:
    """The longest sides at which a picture is searched."""
    if longest <= ONE_SCALE:
        return (max(longest, LEAST),)
    return (COARSE, min(longest, FINE))


def _turn_back(points: np.ndarray, turn: int, size: tuple[int, int]) -> np.ndarray:
    """Points (..., 2) of a picture that `np.rot90(picture, turn)` turned, in the picture of `size`
    (width, height).
    """
    x, y = points[..., 0], points[..., 1]
    width, height = size
    back = {1: (width - 1 - y, x), 2: (width - 1 - x, height - 1 - y), 3: (y, height - 1 - x)}
    return np.stack(back[turn], axis=-1)


def _rolls(keypoints: np.ndarray) -> np.ndarray:
    """The angles (N,) in degrees, clockwise, of the lines between the eyes of (N, 5, 2)."""
    line = keypoints[:, 1] - keypoints[:, 0]
    return np.degrees(np.arctan2(line[:, 1], line[:, 0]))


def _merge(parts: Sequence[Detections]) -> Detections:
    """All detections, those of one face once: with the highest score, then the finer scale's."""
    parts = [part for part in parts if len(part)]
    if not parts:
        return Detections.none()
    points = [part.keypoints for part in parts if part.keypoints is not None]
    every = Detections(
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate(points) if len(points) == len(parts) else None,
        np.concatenate([part.rolls for part in parts]),
    )
    return every.some(list(_kept(every)))


def _kept(found: Detections) -> Iterator[int]:
    taken: list[int] = []
    areas = (found.boxes[:, 2:] - found.boxes[:, :2]).prod(1)
    for index in np.argsort(-found.scores, kind="stable").tolist():
        box = found.boxes[index]
        others = found.boxes[taken]
        sides = np.minimum(others[:, 2:], box[2:]) - np.maximum(others[:, :2], box[:2])
        both = np.clip(sides, 0, None).prod(1)
        if np.all(both < SAME_FACE * np.minimum(areas[taken], areas[index])):
            taken.append(index)
            yield index
