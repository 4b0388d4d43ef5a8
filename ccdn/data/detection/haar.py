"""OpenCV's frontal cascade, which needs no other package."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ccdn.data.detection.calibration import Calibration
from ccdn.data.detection.interface import Detections
from ccdn.data.images import DataError, cv2

CALIBRATION = Calibration(0.0, 0.14, 0.86, 0.88)


class HaarDetector:
    """The cascade as a detector: upright faces, turned by at most about 30 degrees.

    It has no score: each face has 1. It finds faces whose side is at least 0.06 of the picture's
    longer side.
    """

    name = "haar"

    def detect(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """The faces of each picture, uint8 RGB (H, W, 3), largest first."""
        found = [detect_faces(image) for image in images]
        return [Detections(np.reshape(boxes, (-1, 4)), np.ones(len(boxes))) for boxes in found]


def detect_faces(image: np.ndarray, smallest: float = 0.06) -> list[np.ndarray]:
    """Find faces in an RGB uint8 image (H, W, 3) with the cascade: boxes (4,) float64, largest
    first.

    The boxes are moved and scaled to where a face's landmark box would be on average, so that a
    network trained with box gt or provided gets crops of the kind it knows. `smallest` is the
    smallest side of a face, as a fraction of the image's longer side. Faces of equal size are
    ordered from top to bottom. Several threads may search at the same time.
    """
    found = find_rectangles(image, smallest)
    # OpenCV returns them in the order in which its threads found them.
    order = sorted(found.tolist(), key=lambda r: (-(r[2] - r[0]) * (r[3] - r[1]), r[1], r[0]))
    return list(CALIBRATION.apply(np.reshape(order, (-1, 4))))


def find_rectangles(image: np.ndarray, smallest: float = 0.06) -> np.ndarray:
    """The cascade's own squares (N, 4) float64, x0 y0 x1 y1; see `detect_faces`."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    shrink = min(1.0, 1024 / max(grey.shape))
    if shrink < 1.0:
        width, height = (max(1, round(shrink * side)) for side in grey.shape[::-1])
        grey = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
    grey = cv2.equalizeHist(grey)
    least = max(20, int(smallest * max(grey.shape)))
    with _cascade() as cascade:
        found = cascade.detectMultiScale(
            grey, scaleFactor=1.1, minNeighbors=4, minSize=(least, least)
        )
        if len(found) == 0:  # a finer search finds half of the missed faces, but is slower
            found = cascade.detectMultiScale(
                grey, scaleFactor=1.03, minNeighbors=6, minSize=(least, least)
            )
    squares = np.array(found, np.float64).reshape(-1, 4)
    squares[:, 2:] += squares[:, :2]
    # A rectangle of whole pixels covers [x - 0.5, x + width - 0.5].
    return squares / shrink - 0.5


# A classifier keeps the picture that it searches, so two threads cannot share one. Each call takes
# one from this pool, and makes a new one (5 ms) if all are in use. The pool never holds more than
# were in use at the same time. Taking and returning are atomic and need no lock, which a process
# forked meanwhile could find locked forever.
_idle: deque[cv2.CascadeClassifier] = deque()


@contextmanager
def _cascade() -> Iterator[cv2.CascadeClassifier]:
    """A face cascade for exclusive use in the block."""
    try:
        cascade = _idle.pop()
    except IndexError:
        cascade = _load_cascade()
    yield cascade
    _idle.append(cascade)  # not after an error: its state is unknown


def _load_cascade() -> cv2.CascadeClassifier:
    path = Path(cv2.__file__).parent / "data" / "haarcascade_frontalface_alt2.xml"
    cascade = cv2.CascadeClassifier(str(path))
    if cascade.empty():
        raise DataError(
            f"{path}: OpenCV's face cascade cannot be loaded (opencv-python >= 4.8, < 5)"
        )
    return cascade
