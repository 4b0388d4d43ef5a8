"""The square box around a face's crop, from the data, its landmarks, or a face detector."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ccdn.data.crop import crop_matrix, to_unit, transform_points
from ccdn.data.detection import Detector, detector
from ccdn.data.faces import Face, FaceSet
from ccdn.data.images import DataError

BOX_KINDS = ("provided", "gt", "detector")


class NoFaceFoundError(DataError):
    """The detector found no box that covers the face."""


def face_box(
    face: Face,
    kind: str,
    margin: float = 0.0,
    image: Callable[[], np.ndarray] | None = None,
    finder: str | Detector = "auto",
) -> np.ndarray:
    """Return the square box (4,) float64 to crop a face by.

    `kind` is provided (the data set's own box), gt (the smallest box around the landmarks) or
    detector (needs `image`, a function that gives the image; the detection that overlaps the
    landmarks most is taken; `finder` is the detector or its name). The square has the centre of
    that box and a side of (1 + margin) times its longer side. Raises DataError for an unknown kind,
    a data set without boxes, an empty or inverted box; NoFaceFoundError when no detection overlaps
    the landmarks by half.
    """
    name = face.where
    lenient = kind == "gt"  # two points, one above the other, still make a face
    if kind == "gt":
        box = landmark_box(face.landmarks)
    elif kind == "provided":
        if face.box is None:
            raise DataError(
                f"{name}: the data provide no box. Choose box: gt (the landmark box) or "
                "box: detector; the choice moves every score, so it is not guessed"
            )
        box = np.asarray(face.box, np.float64)
    elif kind == "detector":
        if image is None:
            raise DataError(f"{name}: box: detector needs the image")
        box = _detect_this(face, image(), detector(finder))
    else:
        raise DataError(f"found box {kind!r}, expected one of {', '.join(BOX_KINDS)}")
    try:
        return _square(box, margin) if lenient else square_box(box, margin)
    except ValueError as error:
        raise DataError(f"{name}: {error}") from None


def landmark_box(landmarks: np.ndarray) -> np.ndarray:
    """The smallest box around landmarks (L, 2): (4,) float64, not square, without a margin."""
    points = np.asarray(landmarks, np.float64)
    return np.concatenate([points.min(0), points.max(0)])


def square_box(box: np.ndarray, margin: float = 0.0) -> np.ndarray:
    """The square about a box's centre, (4,) float64, of (1 + margin) times its longer side.

    Raises ValueError for a box that is empty, inverted or not finite, and a margin of -1 or less.
    """
    x0, y0, x1, y1 = (float(value) for value in box)
    if not (x0 < x1 and y0 < y1):
        raise _no_box(box)
    return _square(box, margin)


def _no_box(box: np.ndarray) -> ValueError:
    found = ", ".join(f"{value:g}" for value in box)
    return ValueError(f"found an empty or inverted box ({found}), expected x0 < x1 and y0 < y1")


def _square(box: np.ndarray, margin: float) -> np.ndarray:
    """As `square_box`, but the box of landmarks on a line may have no width or no height."""
    x0, y0, x1, y1 = (float(value) for value in box)
    if not (np.isfinite([x0, y0, x1, y1]).all() and x0 <= x1 and y0 <= y1 and (x0, y0) != (x1, y1)):
        raise _no_box(box)
    if not margin > -1:
        raise ValueError(f"found a box margin of {margin}, expected more than -1")
    half = (1.0 + margin) * max(x1 - x0, y1 - y0) / 2
    centre_x, centre_y = (x0 + x1) / 2, (y0 + y1) / 2
    return np.array([centre_x - half, centre_y - half, centre_x + half, centre_y + half])


def mean_shape(faces: FaceSet, box: str, margin: float = 0.0) -> np.ndarray:
    """The mean of a set's landmarks in unit coordinates of their crops: (L, 2) float32."""
    total = np.zeros((faces.points, 2))
    for index in range(len(faces)):
        face = faces.face(index)
        square = face_box(face, box, margin, image=lambda i=index: faces.image(i))  # type: ignore[misc]
        matrix = crop_matrix(square, 1)
        total += to_unit(transform_points(matrix, face.landmarks.astype(np.float64)), 1)
    return (total / len(faces)).astype(np.float32)


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    low, high = np.maximum(first[:2], second[:2]), np.minimum(first[2:], second[2:])
    both = float(np.prod(np.clip(high - low, 0, None)))
    areas = float(np.prod(first[2:] - first[:2]) + np.prod(second[2:] - second[:2]))
    return both / (areas - both) if areas > both else 0.0


def _detect_this(face: Face, image: np.ndarray, finder: Detector) -> np.ndarray:
    wanted = _square(landmark_box(face.landmarks), 0.0)
    boxes = finder.detect([image])[0].boxes
    best = max(boxes, key=lambda box: overlap(box, wanted), default=None)
    if best is None or overlap(best, wanted) < 0.5:
        raise NoFaceFoundError(
            f"{face.where}: the detector found {len(boxes)} boxes, "
            "none overlaps the landmarks by half"
        )
    return best
