"""Bad text files, of WFLW, HRNet's CSV and COCO's JSON: an error that names the file, the row,
found and expected. Those of MATLAB: test_bad_mat_files.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ccdn.data import CropDataset, DataError, FaceSet, open_faces
from ccdn.data.images import cv2
from ccdn.data.readers import wflw

pytestmark = pytest.mark.filterwarnings("ignore:.*is not the official one")

HEADER = "image_name,scale,center_w,center_h," + ",".join(
    f"original_{i}_{axis}" for i in range(5) for axis in "xy"
)
ROW = "a.png,0.2,24,20," + ",".join(map(str, range(10, 20)))


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((48, 56, 3), 90, np.uint8))


def wflw_row(**change: Any) -> str:
    fields = [str(10 + i / 10) for i in range(196)] + ["9", "9", "31", "31"] + ["0"] * 6
    for key, value in change.items():
        if key != "image":
            fields[int(key[1:])] = str(value)
    return " ".join([*fields, change.get("image", "0--Parade/a face.png")])


def make_wflw(root: Path, *rows: str) -> Path:
    folder = root / "list_98pt_rect_attr_train_test"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "list_98pt_rect_attr_train.txt").write_text("\n".join(rows))
    picture(root / "WFLW_images" / "0--Parade" / "a face.png")
    return root


def read(kind: str, root: Path, **options: Any) -> FaceSet:
    return open_faces(kind, root, "train", **options)


# ---- WFLW --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1 2 3", "train.txt, line 2: found 3 fields, expected 207"),
        (wflw_row(f3="x"), "line 2: found 'x', expected a number"),
        (wflw_row(f4="nan"), "line 2: found landmark 2 at .nan, .*expected finite numbers"),
        (wflw_row(f4="1e300"), "line 2: found landmark 2 at .1e.300, .*expected finite"),
        (wflw_row(f198="2"), "line 2: found an empty or inverted box .9, 9, 2, 31., expected x0"),
        (wflw_row(f201="2"), "line 2: found the attribute '2', expected 0 or 1"),
        (wflw_row(image="b.png"), "b.png .list_98pt.*line 2.: image not found"),
    ],
)
def test_wflw_rows(row: str, message: str, tmp_path: Path) -> None:
    root = make_wflw(tmp_path, wflw_row(), row, wflw_row())
    with pytest.raises(DataError, match=message):
        read("wflw", root)
    faces = read("wflw", root, skip_bad=True)
    assert len(faces) == 2
    assert faces.skipped.count == 1
    assert faces.face(1).name == "0--Parade/a face.png#2"


def test_a_wflw_row_field_by_field(tmp_path: Path) -> None:
    root = make_wflw(tmp_path, "", wflw_row(f200="1", f204="1", f205="1"))
    face = read("wflw", root).face(0)
    np.testing.assert_allclose(face.landmarks.ravel(), 10 + np.arange(196) / 10, rtol=1e-6)
    assert face.box is not None
    assert face.box.tolist() == [9, 9, 31, 31]
    assert [name for name, has in face.attributes.items() if has] == ["pose", "occlusion", "blur"]
    assert face.group == "train"
    assert face.where.endswith("a face.png (list_98pt_rect_attr_train.txt, line 2)")
    with pytest.raises(DataError, match=f"found the attribute '{'x' * 40}', expected"):
        read("wflw", make_wflw(tmp_path, wflw_row(f205="x" * 60)))


def test_the_official_sizes_of_wflw() -> None:
    """Wu et al. 2018, table 2."""
    sizes = {"pose": 326, "expression": 314, "illumination": 698, "makeup": 206, "occlusion": 736}
    assert {"train": 7500, "test": 2500, **sizes, "blur": 773} == wflw.SIZES


def test_the_list_as_its_archive_unpacks(tmp_path: Path) -> None:
    root = make_wflw(tmp_path / "a", wflw_row())
    (root / "WFLW_annotations").mkdir()
    (root / "list_98pt_rect_attr_train_test").rename(
        root / "WFLW_annotations/list_98pt_rect_attr_train_test"
    )
    assert len(read("wflw", root)) == 1
    (root / "WFLW_images").rename(root / "pictures")
    with pytest.raises(DataError, match="WFLW_images: no such folder, expected the images of WFLW"):
        read("wflw", root)


def test_a_landmark_far_outside_the_image(tmp_path: Path) -> None:
    root = make_wflw(tmp_path, wflw_row(), wflw_row(f0="900"))
    faces = read("wflw", root)
    crops = CropDataset(faces, size=16)
    crops[0]
    message = r"a face.png \(list_98pt_rect_attr_train.txt, line 2\): landmark 0 at \(900.0, 10.1\)"
    with pytest.raises(DataError, match=message):
        crops[1]
    assert read("wflw", root, skip_bad=True).skipped.count == 1


def test_wflw_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no list of WFLW, looked for .*attr_train.txt"):
        read("wflw", tmp_path)
    root = make_wflw(tmp_path, wflw_row())
    with pytest.raises(DataError, match="WFLW has no split 'valid', expected one of train, test"):
        open_faces("wflw", root, "valid")
    with pytest.raises(DataError, match="WFLW train has 98 points, the configuration asks for 68"):
        read("wflw", root, points=68)
    with pytest.raises(DataError, match="no usable face"):
        read("wflw", make_wflw(tmp_path, ""))
    (root / "list_98pt_rect_attr_train_test/list_98pt_rect_attr_train.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"train.txt: not a text file, expected rows of 207 fields"):
        read("wflw", root)


# ---- HRNet's CSV, COCO's JSON ------------------------------------------------------------------


def make_csv(root: Path, *lines: str) -> Path:
    picture(root / "images" / "a.png")
    (root / "face_landmarks_own_train.csv").write_text("\n".join(lines))
    return root


def test_hrnet(tmp_path: Path) -> None:
    faces = read("hrnet", make_csv(tmp_path, HEADER, ROW, ROW))
    assert len(faces) == 2
    face = faces.face(1)
    assert face.landmarks.tolist() == np.arange(10, 20).reshape(5, 2).tolist()
    assert face.box is not None
    assert face.box.tolist() == [4, 0, 44, 40]
    sized = HEADER.replace("scale,", "scale,box_size,"), ROW.replace("0.2,", "0.2,16,")
    face = read("hrnet", make_csv(tmp_path, *sized)).face(0)
    assert face.box is not None
    assert face.box.tolist() == [16, 12, 32, 28]
    assert faces.image(0).shape == (48, 56, 3)
    assert face.where.endswith("a.png (face_landmarks_own_train.csv, line 2)")
    one = HEADER.partition(",original_1_x")[0], ROW.partition(",12")[0]
    assert read("hrnet", make_csv(tmp_path, *one)).face(0).landmarks.tolist() == [[10, 11]]
    long = HEADER.replace("center_w", "w" * 90)
    for lines, message in (
        ([long], rf"found 14 columns image_name,scale,{'w' * 63},\.\.\., expected"),
        ([HEADER, ROW.replace("19", "x" * 60)], f"found original_4_y = '{'x' * 40}', expected"),
        ([HEADER.replace(",original_0_x", "")], "found 13 columns image_name"),
        (["image_name,scale,center_w,center_h"], "found 4 columns image_name"),
        ([f"{HEADER},original_5_x"], "found 15 columns image_name"),
    ):
        with pytest.raises(DataError, match=message):
            read("hrnet", make_csv(tmp_path, *lines))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "line 1: found 0 columns"),
        (["a,b"], "line 1: found 2 columns a,b,..., expected image_name,scale"),
        ([HEADER.replace("original_1_x", "x1")], "line 1: found 14 columns image_name"),
        ([HEADER, ROW, ROW + ",3"], "line 3: found 15 fields, expected 14"),
        ([HEADER, ROW, ROW.replace("19", "x")], "line 3: found original_4_y = 'x', expected a"),
        ([HEADER, ROW, ROW.replace("19", "inf")], "line 3: found landmark 4 at"),
        ([HEADER, ROW, ROW.replace("0.2", "-1")], "line 3: found an empty or inverted box"),
        ([HEADER, ROW, ROW.replace("a.png", "")], "line 3: found no image name"),
        ([HEADER, ROW, ROW.replace("a.png", "b.png")], "b.png .*line 3.: image not found"),
    ],
)
def test_hrnet_rows(lines: list[str], message: str, tmp_path: Path) -> None:
    root = make_csv(tmp_path, *lines)
    with pytest.raises(DataError, match=message):
        read("hrnet", root)
    if len(lines) == 3:
        assert read("hrnet", root, skip_bad=True).skipped.count == 1


def coco(root: Path, change: Callable[[dict[str, Any]], None] = lambda content: None) -> Path:
    picture(root / "images" / "a.png")
    keypoints = [float(v) for i in range(5) for v in (10 + 2 * i, 11 + 2 * i, 1 + i % 2)]
    annotation = {"image_id": 7, "id": 1, "keypoints": keypoints, "bbox": [9, 9, 12, 12]}
    content: dict[str, Any] = {
        "images": [{"id": 7, "file_name": "a.png"}],
        "annotations": [annotation, {**annotation, "id": 2, "center": [20, 21], "scale": 0.1}],
    }
    change(content)
    (root / "train.json").write_text(json.dumps(content))
    return root


def test_coco(tmp_path: Path) -> None:
    faces = read("coco", coco(tmp_path))
    assert len(faces) == 2
    boxes = [faces.face(i).box for i in range(2)]
    assert [box.tolist() for box in boxes if box is not None] == [[9, 9, 21, 21], [10, 11, 30, 31]]
    visible = faces.face(0).visible
    assert visible is not None
    assert visible.tolist() == [False, True, False, True, False]
    assert faces.face(0).landmarks.tolist() == [[10 + 2 * i, 11 + 2 * i] for i in range(5)]
    assert faces.face(1).where.endswith("a.png (train.json, annotation 1)")


def test_what_an_annotation_of_coco_may_lack(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        first, second = content["annotations"]
        for item in (first, second):
            item["keypoints"] = [1.0, 2, 1] * 5
            item["image_id"] = "seven"
        content["images"][0]["id"] = "seven"
        del first["bbox"]
        second["box_size"] = 10

    faces = read("coco", coco(tmp_path, change))
    assert faces.face(0).box is None
    assert np.array(faces.face(1).box).tolist() == [15, 16, 25, 26]
    assert faces.face(0).visible is None


def _set(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content["annotations"][1][key] = value

    return change


def test_a_rectangle_of_coco_too_small_for_its_face(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    read("coco", coco(tmp_path))
    assert "too small" not in caplog.text
    faces = read("coco", coco(tmp_path, _set("bbox", [9, 9, 4, 4])))
    assert np.array(faces.face(1).box).tolist() == [10, 11, 30, 31]
    # The crop ends at 11 + 1.25 * 4 / 2, a landmark lies at 19.
    assert "1 of 2 faces is too small" in caplog.text
    assert "crop: annotation 1 (id 2) by 110 %; center" in caplog.text

    def make_many(content: dict[str, Any]) -> None:
        small = {**content["annotations"][1], "bbox": [9, 9, 4, 4]}
        content["annotations"] = [{**small, "id": i} for i in range(4)]

    caplog.clear()
    read("coco", coco(tmp_path, make_many))
    assert "4 of 4 faces" in caplog.text
    assert "annotation 2 (id 2) by 110 %, ...; center" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            _set("keypoints", [1, 2]),
            r"annotation 1 \(id 2\): found 2 keypoint values",
        ),
        (_set("keypoints", []), r"annotation 1 \(id 2\): found 0 keypoint values, expected 3 a"),
        (_set("keypoints", [1, 2, 1, 3]), "found 4 keypoint values, expected 3 a point"),
        (_set("keypoints", [1, 2, 1]), "annotation 1.*: found 1 points, expected 5 as in"),
        (_set("keypoints", [1, 2, 1] * 4 + [1, 2, 0]), "point 4 is not annotated .v = 0."),
        (_set("keypoints", [True, 2, 1] * 5), "expected 'keypoints' to be a list of finite"),
        (_set("scale", True), "found scale = True, expected a finite number"),
        (_set("center", [1, 2, 3]), "found 3 values of 'center', expected 2"),
        (_set("keypoints", [1, 2, 0] * 5), "point 0 is not annotated .v = 0., expected 1 or 2"),
        (_set("keypoints", [1, "2", 2] * 5), "expected 'keypoints' to be a list of finite numbers"),
        (_set("keypoints", [1, 10**400, 2] * 5), "expected 'keypoints' to be a list of finite"),
        (_set("keypoints", None), "expected 'keypoints' to be a list of finite numbers"),
        (_set("image_id", 8), "found image_id 8, expected that of an image"),
        (_set("image_id", [8]), "found image_id .8., expected that of an image"),
        (_set("scale", -1), "found an empty or inverted box"),
        (_set("scale", "1"), "found scale = '1', expected a finite number"),
        (_set("center", [1]), "found 1 values of 'center', expected 2"),
    ],
)
def test_coco_annotations(
    change: Callable[[dict[str, Any]], None], message: str, tmp_path: Path
) -> None:
    root = coco(tmp_path, change)
    with pytest.raises(DataError, match=f"train.json.*{message}"):
        read("coco", root)
    assert read("coco", root, skip_bad=True).skipped.count == 1


def test_coco_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"found no .json file, expected a COCO-style JSON file"):
        read("coco", tmp_path)
    for text in (
        "",
        "{",
        "[1]",
        '{"images": 1}',
        '{"images": [], "annotations": [1]}',
        "[" * 99999,
    ):
        (tmp_path / "train.json").write_text(text)
        with pytest.raises(DataError, match=r"train.json: (not a JSON file|expected a list)"):
            read("coco", tmp_path)
    for image in ({"file_name": "a.png"}, {"id": 1}, {"id": 1, "file_name": ""}, {"id": 1.5}):
        root = coco(tmp_path, lambda content, image=image: content["images"].append(image))
        with pytest.raises(DataError, match=r"train.json, image 1: expected an id and a file_name"):
            read("coco", root)
    (tmp_path / "own_train.json").write_text("{}")
    with pytest.raises(DataError, match=r"found own_train.json, train.json for the split 'train'"):
        read("coco", tmp_path)
