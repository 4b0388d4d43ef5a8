"""The faces in COCO-WholeBody's files, in the form that its page describes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ccdn.data import CropDataset, DataError, detect_kind, open_faces
from ccdn.data.images import cv2

FACE = np.random.default_rng(0).uniform(20, 60, (68, 2)).round(2)


def person(key: int, has_face: bool) -> dict[str, Any]:
    """Someone with a body of 17 points; not all of it, or of the hands, was annotated."""
    face = np.column_stack([FACE + key, np.full(68, 0.35)])
    return {
        "id": key,
        "image_id": 139,
        "category_id": 1,
        "iscrowd": 0,
        "area": 900.0,
        "bbox": [5.0, 5.0, 80.0, 80.0],
        "num_keypoints": 1,
        "keypoints": [30, 31, 2] + [0] * 48,
        "face_valid": has_face,
        "face_box": [18.0 + key, 19.0, 44.0, 45.0] if has_face else [0.0] * 4,
        "face_kpts": face.ravel().tolist() if has_face else [0.0] * 204,
        "lefthand_valid": False,
        "lefthand_box": [0.0] * 4,
        "lefthand_kpts": [0.0] * 63,
        "righthand_valid": False,
        "righthand_box": [0.0] * 4,
        "righthand_kpts": [0.0] * 63,
        "foot_valid": False,
        "foot_kpts": [0.0] * 18,
    }


@pytest.fixture
def whole_body(tmp_path: Path) -> Callable[..., Path]:
    """whole_body(change) writes three people, the second without a face, as the files lie."""

    def write(change: Callable[[dict[str, Any]], None] = lambda third: None) -> Path:
        people = [person(1, True), person(2, False), person(3, True)]
        change(people[2])
        image = {"id": 139, "file_name": "000000000139.jpg", "width": 96, "height": 90}
        content = {"images": [image], "annotations": people, "categories": [{"id": 1}]}
        for folder in ("annotations", "val2017"):
            (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / "annotations" / "coco_wholebody_val_v1.0.json").write_text(json.dumps(content))
        path = tmp_path / "val2017" / "000000000139.jpg"
        assert cv2.imwrite(str(path), np.full((90, 96, 3), 70, np.uint8))
        return tmp_path

    return write


def test_faces_of_people(whole_body: Callable[..., Path]) -> None:
    root = whole_body()
    assert detect_kind(root) == "coco"
    faces = open_faces("coco", root, "val", skip_bad=True)
    assert (len(faces), faces.points, faces.skipped.count) == (2, 68, 0)
    for index, key in enumerate((1, 3)):
        face = faces.face(index)
        np.testing.assert_allclose(face.landmarks, FACE + key, rtol=1e-6)
        np.testing.assert_allclose(np.asarray(face.box), [18 + key, 19, 62 + key, 64])
        assert face.visible is None
    assert faces.face(1).where.endswith("139.jpg (coco_wholebody_val_v1.0.json, annotation 2)")
    CropDataset(faces, 16)[1]


def test_the_pictures_may_lie_in_images(whole_body: Callable[..., Path]) -> None:
    root = whole_body()
    shutil.move(root / "val2017", root / "images")
    assert len(open_faces("coco", root, "val")) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"face_kpts": [9.0, 9, 1] * 67}, "found 67 points of face_kpts, expected 68"),
        ({"face_kpts": [9.0, 9, 1] * 67 + [9, 9]}, "found 203 keypoint values, expected 3"),
        (
            {"face_kpts": [9.0, 9, 1] * 67 + [9, 9, 0]},
            "point 67 is not annotated .v = 0., expected",
        ),
        ({"face_kpts": [9.0, 9, 1] * 67 + [0, 0, 1]}, "found point 67 at 0 0, the mark of a"),
        ({"face_kpts": None}, "expected 'face_kpts' to be a list of finite numbers"),
        ({"face_box": [9, 9, 0, 9]}, "found an empty or inverted box"),
        ({"face_box": [9, 9, 9]}, "found 3 values of 'face_box', expected 4"),
    ],
)
def test_invalid_faces(
    change: dict[str, Any], message: str, whole_body: Callable[..., Path]
) -> None:
    root = whole_body(lambda third: third.update(change))
    with pytest.raises(DataError, match=rf"annotation 2.*{message}"):
        open_faces("coco", root, "val")
    faces = open_faces("coco", root, "val", skip_bad=True)
    assert (len(faces), faces.skipped.count) == (1, 1)


def test_a_face_that_is_not_marked_invalid(whole_body: Callable[..., Path]) -> None:
    """Without face_valid the points decide; without face_box the landmarks give the box."""

    def change(third: dict[str, Any]) -> None:
        del third["face_valid"], third["face_box"]

    faces = open_faces("coco", whole_body(change), "val")
    assert len(faces) == 2
    assert faces.face(1).box is None
