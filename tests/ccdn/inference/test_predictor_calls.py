"""`ccdn.Predictor` called from Python: arrays in, landmarks out, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import ccdn
from ccdn.data import (
    landmark_box,
    read_pts,
)


def test_from_python(weights: Path, face_folder: Path) -> None:
    """A picture comes in, landmarks in pixels and boxes come out."""
    predictor = ccdn.Predictor(weights)
    image = cv2.imread(str(face_folder / "face00.png"))
    box = landmark_box(read_pts(face_folder / "face00.pts"))
    first, second = faces = predictor(image, [box, box + 5], color="bgr")
    assert (faces.landmarks.shape, faces.landmarks.dtype) == ((2, 68, 2), np.float32)
    np.testing.assert_array_equal(faces.boxes, [box, box + 5])
    # The mean shape answers for every face: it moves with the box.
    assert np.allclose(second.landmarks, first.landmarks + 5, atol=1e-3)
    (alone,) = predictor(image, box, color="bgr")
    np.testing.assert_array_equal(alone.landmarks, first.landmarks)
    empty = predictor(np.full((90, 90, 3), 128, np.uint8))
    assert (empty.landmarks.shape, empty.boxes.shape) == ((0, 68, 2), (0, 4))
    with pytest.raises(ValueError, match="batch_size: expected at least 1"):
        ccdn.Predictor(weights, batch_size=0)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, "found NoneType"),
        ("face.png", "found str"),
        (np.zeros((9, 9, 3)), r"found float64 \(9, 9, 3\)"),
        (np.zeros((9, 9), np.uint8), r"found uint8 \(9, 9\)"),
        (np.zeros((9, 9, 4), np.uint8), r"found uint8 \(9, 9, 4\)"),
        (np.zeros((0, 9, 3), np.uint8), r"at least one pixel, found uint8 \(0, 9, 3\)"),
    ],
)
def test_an_invalid_picture(image: Any, message: str, weights: Path) -> None:
    """Of the methods that take arrays only; a call takes more (test_pictures.py)."""
    predictor = ccdn.Predictor(weights)
    for method in (predictor.predict, predictor.detections):
        with pytest.raises(ValueError, match=rf"image must be uint8 \(H, W, 3\).*{message}"):
            method([image])


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (5, "4 numbers x0 y0 x1 y1 for each face, found 5"),
        ([1, 2, 3], "4 numbers x0 y0 x1 y1 for each face"),
        ([[1, 2, 3, 4, 5]], "4 numbers x0 y0 x1 y1 for each face"),
        ([["a", 1, 2, 3]], "4 numbers x0 y0 x1 y1 for each face"),
        ([[np.nan, 1, 2, 3]], "4 numbers x0 y0 x1 y1 for each face"),
        ([[5, 5, 1, 1]], "empty or inverted box"),
        ([[5, 5, 5, 9]], "empty or inverted box 5,5,5,9, expected x0 < x1"),
        ([[1, 1, 9, 9], [5, 5, 9, 5]], "empty or inverted box 5,5,9,5, expected x0 < x1"),
        ([[1e300, 1, 2e300, 5]], "expected one that overlaps the picture of 90 x 90"),
    ],
)
def test_invalid_boxes(boxes: Any, message: str, weights: Path) -> None:
    with pytest.raises(ValueError, match=message):
        ccdn.Predictor(weights)(np.zeros((90, 90, 3), np.uint8), boxes)


@pytest.mark.parametrize(("color", "blue"), [("rgb", 2), ("bgr", 0)])
def test_the_order_of_channels(color: str, blue: int, weights: Path) -> None:
    seen: list[np.ndarray] = []
    predictor = ccdn.Predictor(weights, detector=lambda image: seen.append(image) or [])
    image = np.zeros((4, 4, 3), np.uint8)
    image[:, :, blue] = 255
    assert len(predictor(image, color=color)) == 0
    assert predictor.detect(image, color=color) == []
    assert [picture[0, 0].tolist() for picture in seen] == [[0, 0, 255]] * 2


def test_batches_do_not_change_the_landmarks(
    weights: Path, face_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [cv2.imread(str(path)) for path in sorted(face_folder.glob("*.png"))[:5]]
    boxes = [[np.array([10.0 + i, 10, 70, 80])] * (i % 3) for i in range(5)]
    one = ccdn.Predictor(weights, batch_size=1).landmarks(images, boxes)
    many = ccdn.Predictor(weights, batch_size=4).landmarks(images, boxes)
    assert [len(faces.boxes) for faces in many] == [0, 1, 2, 0, 1]
    for a, b in zip(one, many, strict=True):
        assert np.allclose(a.landmarks, b.landmarks, atol=1e-3)


@pytest.mark.parametrize("image", [None, np.zeros((9, 9, 3)), np.zeros((9, 9, 4), np.uint8)])
def test_parts_of_a_predictor_check_pictures_too(image: Any, weights: Path) -> None:
    predictor = ccdn.Predictor(weights)
    with pytest.raises(ValueError, match="image must be uint8"):
        predictor.detections([image])
    with pytest.raises(ValueError, match="image must be uint8"):
        predictor.landmarks([image], [[np.array([0.0, 0, 9, 9])]])
    with pytest.raises(ValueError, match="4 numbers x0 y0 x1 y1"):
        predictor.landmarks([np.zeros((9, 9, 3), np.uint8)], [[np.zeros(3)]])
