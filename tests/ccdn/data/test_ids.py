"""Ids that are not unique, in every format that has ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from ccdn.data import DataError, open_faces, read_folder, write_pts
from ccdn.data.formats.json_files import parse_json
from ccdn.data.images import cv2

pytestmark = pytest.mark.filterwarnings("ignore:.*is not the official one")


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((48, 56, 3), 90, np.uint8))


def coco(root: Path, images: list[Any], annotations: list[tuple[Any, Any]]) -> Path:
    """Images by their ids, named 0.png, 1.png, ...; annotations by their ids and image ids."""
    for number in range(len(images)):
        picture(root / "images" / f"{number}.png")
    content = {
        "images": [{"id": key, "file_name": f"{k}.png"} for k, key in enumerate(images)],
        "annotations": [
            {"id": key, "image_id": image, "keypoints": [9 + k, 9, 2, 20, 21 + k, 2]}
            for k, (key, image) in enumerate(annotations)
        ],
    }
    (root / "train.json").write_text(json.dumps(content))
    return root


def test_an_id_of_two_images(tmp_path: Path) -> None:
    """It is unknown to which of the two its annotations belong: skip_bad leaves them all out."""
    root = coco(tmp_path, [7, 8, 7], [(1, 7), (2, 8), (3, 7)])
    message = r"train.json: found the id 7 of images 0 and 2, expected an id for each"
    with pytest.raises(DataError, match=message):
        open_faces("coco", root)
    faces = open_faces("coco", root, skip_bad=True)
    assert [faces.face(i).name for i in range(len(faces))] == ["1.png"]
    assert faces.skipped.count == 2
    assert "annotation 2 (id 3): found the id 7 of images 0 and 2" in faces.skipped.reasons[1]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"width": "264"}, "image 1: found width = '264', expected a whole number"),
        ({"height": -1}, "image 1: found height = -1, expected a whole number"),
        ({"file_name": None}, "image 1: expected an id and a file_name"),
        ({"id": None}, "image 1: expected an id and a file_name"),
    ],
)
def test_an_image_that_is_wrong_costs_its_faces_only(
    tmp_path: Path, entry: dict[str, Any], said: str
) -> None:
    root = coco(tmp_path, [7, 8], [(1, 7), (2, 8), (3, 8)])
    content = json.loads((root / "train.json").read_text())
    content["images"][1] |= {"width": 56, "height": 48} | entry
    (root / "train.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=said):
        open_faces("coco", root)
    faces = open_faces("coco", root, skip_bad=True)
    assert [faces.face(i).name for i in range(len(faces))] == ["0.png"]
    assert faces.skipped.count == 2
    reason = "found image_id 8, expected that of an image" if "id" in entry else said
    assert all(reason in text for text in faces.skipped.reasons)


def test_an_id_of_two_annotations(tmp_path: Path) -> None:
    root = coco(tmp_path, [7], [(1, 7), (2, 7), (1, 7)])
    message = r"train.json, annotation 2 \(id 1\): found the id of annotation 0 again"
    with pytest.raises(DataError, match=message):
        open_faces("coco", root)
    faces = open_faces("coco", root, skip_bad=True)
    assert [faces.face(i).landmarks[0, 0] for i in range(len(faces))] == [9, 10]
    assert faces.skipped.count == 1


@pytest.mark.parametrize("key", [True, 1.0, None, [1], {}])
def test_an_invalid_id(key: Any, tmp_path: Path) -> None:
    """For Python true, 1 and 1.0 are one key."""
    root = coco(tmp_path, [1, key], [(1, 1)])
    with pytest.raises(DataError, match=r"train.json, image 1: expected an id and a file_name"):
        open_faces("coco", root)
    root = coco(tmp_path, [1], [(1, 1), (2, key)])
    with pytest.raises(DataError, match=r"annotation 1 \(id 2\): found image_id .*expected that"):
        open_faces("coco", root)


def test_numbers_and_texts_are_other_ids(tmp_path: Path) -> None:
    faces = open_faces("coco", coco(tmp_path, [1, "1"], [(1, "1"), ("1", 1)]))
    assert [faces.face(i).name for i in range(2)] == ["1.png", "0.png"]


def test_annotations_without_ids(tmp_path: Path) -> None:
    assert len(open_faces("coco", coco(tmp_path, [1], [(None, 1), (None, 1)]))) == 2


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 1}', '{"b": [{"a": 1, "c": 2, "a": 3}]}', '{"a": {}, "a": {}}']
)
def test_a_key_that_an_object_has_twice(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found the key 'a' twice in an object"):
        parse_json(text)
    (tmp_path / "train.json").write_text(text)
    with pytest.raises(DataError, match=r"train.json: not a JSON file.*the key 'a' twice"):
        open_faces("coco", tmp_path)
    assert parse_json('{"a": {"a": 1}}') == {"a": {"a": 1}}


def test_a_row_of_a_csv_twice(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    table = tmp_path / "t.csv"
    table.write_text("image,x0,y0,x1,y1\na.png,1,2,3,4\na.png,1,2,3,5\n./a.png,1.0,2,3,4\n")
    with pytest.raises(DataError, match=r"t.csv, line 4: found the face of ./a.png in line 2"):
        read_folder(table)
    faces = read_folder(table, skip_bad=True)
    assert (len(faces), faces.skipped.count) == (2, 1)


def test_faces_twice_in_a_published_list_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Others count them, and scores are to compare."""
    names = ",".join(f"original_{i}_{axis}" for i in range(2) for axis in "xy")
    rows = ["a.png,1,20,20,9,9,20,21", "b.png,1,20,20,9,9,20,21", "a.png,1,20,20,9,9,20,21"]
    for name in "ab":
        picture(tmp_path / "images" / f"{name}.png")
    text = "\n".join([f"image_name,scale,center_w,center_h,{names}", *rows])
    (tmp_path / "own_train.csv").write_text(text)
    faces = open_faces("hrnet", tmp_path)
    assert [faces.face(i).name for i in range(3)] == ["a.png", "b.png", "a.png#2"]
    assert "1 faces have the picture and landmarks of others: " in caplog.text
    assert "a.png (own_train.csv, line 4) those of " in caplog.text
    assert "a.png (own_train.csv, line 2)" in caplog.text


def test_names_stay_unique(tmp_path: Path) -> None:
    """A picture may be called as the second face of another one would be."""
    for name in ("a.png", "a.png#2"):
        picture(tmp_path / "b.png")
        (tmp_path / name).write_bytes((tmp_path / "b.png").read_bytes())
    table = tmp_path / "t.csv"
    names = ["a.png", "a.png#2", "a.png", "a.png#2"]
    rows = [f"{name},1,2,3,{k}" for k, name in enumerate(names)]
    table.write_text("\n".join(["image,x0,y0,x1,y1", *rows]))
    faces = read_folder(table)
    found = [faces.face(i).name for i in range(4)]
    assert found == ["a.png", "a.png#2", "a.png#3", "a.png#2#2"]


def test_aflw_says_which_face_is_there_twice(tmp_path: Path) -> None:
    (tmp_path / "flickr").mkdir()
    content = {
        "data": np.ones((3, 38)),
        "bbox": np.array([[1, 9, 1, 9]] * 3),
        "nameList": np.array([["a.png"]] * 3, object),
        "mask_new": np.ones((3, 19)),
        "ra": np.array([[1, 3, 3]]),
    }
    scipy.io.savemat(tmp_path / "AFLWinfo_release.mat", content)
    with pytest.raises(DataError, match=r"no permutation of 1..3: it has face 3 twice"):
        open_faces("aflw", tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["1", "01"], "found two files of face 1, expected 1_points.mat, 2_points.mat"),
        (["1", "0"], "found a file of face 0, expected 1_points.mat"),
        (["\u0661"], "no annotations of COFW-68, expected 1_points.mat"),
        (["1_0"], "no annotations of COFW-68, expected 1_points.mat"),
    ],
)
def test_numbers_of_cofw68(names: list[str], message: str, tmp_path: Path) -> None:
    for name in names:
        content = {"Points": np.full((68, 2), 9.0), "Occ": np.zeros((1, 68))}
        scipy.io.savemat(tmp_path / f"{name}_points.mat", content)
    with pytest.raises(DataError, match=message):
        open_faces("cofw68", tmp_path, "test")


def test_two_boxes_of_an_image_of_300w(tmp_path: Path) -> None:
    folder = tmp_path / "ibug"
    for name in ("a", "b 1", "b1"):
        picture(folder / f"{name}.png")
        write_pts(folder / f"{name}.pts", np.random.default_rng(0).uniform(9, 40, (68, 2)))

    def write(*names: str) -> None:
        cells = np.empty((1, len(names)), object)
        for k, name in enumerate(names):
            box = np.array([[k, 1.0, 41.0 + k, 41.0]])
            cells[0, k] = {"imgName": name, "bb_detector": box, "bb_ground_truth": box}
        scipy.io.savemat(tmp_path / "bounding_boxes_ibug.mat", {"bounding_boxes": cells})

    write("a.png", "b1.png", "b 1.png")
    faces = open_faces("300w", tmp_path, "ibug")
    lefts = {faces.face(i).name: float(np.asarray(faces.face(i).box)[0]) for i in range(3)}
    assert lefts == {"ibug/a": -1, "ibug/b 1": 1, "ibug/b1": 0}
    write("a.png", "b1.png", "a.png")
    with pytest.raises(DataError, match=r"entry 3: found a second box for 'a.png', expected one"):
        open_faces("300w", tmp_path, "ibug")
