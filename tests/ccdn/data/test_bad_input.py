"""Bad files of every format: an error that names the file, the row, found and expected."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from ccdn.data import CropDataset, DataError, FaceSet, open_faces
from ccdn.data.images import cv2
from ccdn.data.synthetic import SyntheticFaces, write_protocol

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
        (wflw_row(f3="x"), "line 2: could not convert string to float: 'x', expected numbers"),
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


# ---- COFW, AFLW --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mats(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for protocol, points in (("cofw", 29), ("aflw", 19)):
        made[protocol] = tmp_path_factory.mktemp("mat") / protocol
        sets = (SyntheticFaces(4, seed, points=points, size=48) for seed in (0, 1))
        write_protocol(protocol, made[protocol], *sets)
    return made


def changed_cofw(source: Path, folder: Path, change: Callable[[Any], None]) -> Path:
    import h5py

    target = folder / "COFW_train_color.mat"
    target.write_bytes((source / target.name).read_bytes())
    with h5py.File(target, "r+") as file:
        change(file)
    return folder


def _drop(file: Any) -> None:
    del file["phisTr"]


def _shorten(file: Any) -> None:
    values = file["phisTr"][:, :3]
    del file["phisTr"]
    file["phisTr"] = values


def _narrow(file: Any) -> None:
    values = file["phisTr"][:86]
    del file["phisTr"]
    file["phisTr"] = values


def _nan(file: Any) -> None:
    file["phisTr"][4, 1] = np.nan


def _no_box(file: Any) -> None:
    file["bboxesTr"][2, 1] = 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop, "no variable 'phisTr', expected IsTr, bboxesTr, phisTr"),
        (_shorten, "found 4 images, 4 boxes and 3 annotations, expected as many of each"),
        (_narrow, "found phisTr of 4 x 86, expected any x 87"),
        (_nan, "face 2: found landmark 4 at .nan"),
        (_no_box, "face 2: found an empty or inverted box"),
    ],
)
def test_cofw(
    change: Callable[[Any], None], message: str, mats: dict[str, Path], tmp_path: Path
) -> None:
    root = changed_cofw(mats["cofw"], tmp_path, change)
    with pytest.raises(DataError, match=f"COFW_train_color.mat.*{message}"):
        read("cofw", root)
    if change in (_nan, _no_box):
        assert read("cofw", root, skip_bad=True).skipped.count == 1


def test_damaged_cofw_files(mats: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"COFW_train_color.mat: file not found"):
        read("cofw", tmp_path)
    whole = (mats["cofw"] / "COFW_train_color.mat").read_bytes()
    for size in (0, 100, 600, len(whole) // 2):
        (tmp_path / "COFW_train_color.mat").write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"COFW_train_color.mat"):
            read("cofw", tmp_path).image(3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": np.zeros((8, 37))}, "found data of 8 x 37, expected any x 38"),
        ({"bbox": np.zeros((3, 4))}, "found 3 rows of bbox, expected 8"),
        ({"bbox": np.zeros((8, 4))}, "face .: found an empty or inverted box"),
        ({"data": np.full((8, 38), np.nan)}, "face .: found landmark 0 at"),
        (
            {"ra": np.array([[1, 2, 2, 4, 5, 6, 7, 8]])},
            "an ra that is no permutation of 1..8",
        ),
        ({"mask_new": "none"}, "found mask_new of a single value, expected any x 19"),
        ({"nameList": None}, "no variable 'nameList', expected data, bbox"),
        ({"train_faces": 9}, "found 8 faces, expected 24386, or the number of training faces"),
    ],
)
def test_aflw(change: dict[str, Any], message: str, mats: dict[str, Path], tmp_path: Path) -> None:
    source = mats["aflw"] / "AFLWinfo_release.mat"
    content = {k: v for k, v in scipy.io.loadmat(source).items() if not k.startswith("__")}
    content.update(change)
    content = {key: value for key, value in content.items() if value is not None}
    scipy.io.savemat(tmp_path / source.name, content)
    (tmp_path / "flickr").symlink_to(mats["aflw"] / "flickr")
    with pytest.raises(DataError, match=f"AFLWinfo_release.mat.*{message}"):
        read("aflw", tmp_path)


def test_damaged_aflw_files(mats: dict[str, Path], tmp_path: Path) -> None:
    name = "AFLWinfo_release.mat"
    whole = (mats["aflw"] / name).read_bytes()
    for content in (b"", b"MATLAB", whole[:200], whole[: len(whole) // 2]):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name):
            read("aflw", tmp_path)
    (tmp_path / name).write_bytes(whole)
    with pytest.raises(DataError, match="flickr: no such folder"):
        read("aflw", tmp_path)


# ---- COFW-68 and 300W's boxes ------------------------------------------------------------------


def test_cofw68(mats: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no annotations of COFW-68, expected 1_points.mat"):
        open_faces("cofw68", tmp_path, "test")
    with pytest.raises(DataError, match="COFW-68 has no split 'train', expected one of test"):
        open_faces("cofw68", tmp_path, "train")
    points = np.random.default_rng(0).uniform(1, 40, (68, 2))
    folder = tmp_path / "test_annotations"
    folder.mkdir()
    occluded = (np.arange(68) % 3 == 0).astype(np.uint8)[None]
    scipy.io.savemat(folder / "2_points.mat", {"Points": points, "Occ": occluded})
    scipy.io.savemat(tmp_path / "cofw68_test_bboxes.mat", {"bboxes": np.tile([5, 6, 7, 8], (4, 1))})
    (tmp_path / "COFW_test_color.mat").write_bytes(
        (mats["cofw"] / "COFW_test_color.mat").read_bytes()
    )
    face = open_faces("cofw68", tmp_path, "test").face(0)
    np.testing.assert_allclose(face.landmarks, points - 1, atol=1e-4)
    assert face.box is not None
    assert face.box.tolist() == [4, 5, 11, 13]
    assert face.visible is not None
    assert face.visible.tolist() == (occluded[0] == 0).tolist()
    scipy.io.savemat(folder / "3_points.mat", {"Points": points[:60], "Occ": occluded})
    with pytest.raises(DataError, match=r"3_points.mat: found Points of 60 x 2, expected 68 x 2"):
        open_faces("cofw68", tmp_path, "test")
    assert len(open_faces("cofw68", tmp_path, "test", skip_bad=True)) == 1


def test_detector_boxes_of_300w(tmp_path: Path, w300: Path) -> None:
    cells = np.empty((1, 2), object)
    for k, (name, box) in enumerate((("image_1.png", [3, 4, 9, 9]), ("image2.jpg", [1, 1, 8, 9]))):
        box = np.array([box], float)
        cells[0, k] = {"imgName": name, "bb_detector": box, "bb_ground_truth": box}
    path = w300 / "bounding_boxes_ibug.mat"
    scipy.io.savemat(path, {"bounding_boxes": cells})
    with pytest.warns(UserWarning, match="ibug: found 2, expected 135"):
        faces = open_faces("300w", w300, "ibug")
    boxes = {faces.face(i).name: faces.face(i).box for i in range(2)}
    assert {name: box.tolist() for name, box in boxes.items() if box is not None} == {
        "ibug/image_1": [2, 3, 8, 8],
        "ibug/image 2": [0, 0, 7, 8],
    }
    cells[0, 1] = {"imgName": "a.png", "bb_detector": [1, 2], "bb_ground_truth": [0]}
    scipy.io.savemat(path, {"bounding_boxes": cells})
    with pytest.raises(DataError, match=r"ibug.mat, entry 2: found bb_detector of 2 numbers"):
        open_faces("300w", w300, "ibug")
    scipy.io.savemat(path, {"bounding_boxes": np.zeros((2, 2))})
    with pytest.raises(DataError, match=r"ibug.mat, entry 1: expected imgName, bb_detector"):
        open_faces("300w", w300, "ibug")


def test_the_mirror_s_folder_inside_the_root(w300: Path, tmp_path: Path) -> None:
    root = tmp_path / "downloaded"
    root.mkdir()
    (root / "ibug_300W_large_face_landmark_dataset").symlink_to(w300)
    picture(w300 / "ibug" / "image_1_mirror.jpg")
    (w300 / "ibug" / "image_1_mirror.pts").write_text("of the mirrored copy")
    with pytest.warns(UserWarning, match="ibug: found 2, expected 135"):
        assert len(open_faces("300w", root, "ibug")) == 2


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
        "annotations": [annotation, {**annotation, "center": [20, 21], "scale": 0.1}],
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


def _set(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content["annotations"][1][key] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            _set("keypoints", [1, 2]),
            r"annotation 1 \(id 1\): found 2 keypoint values",
        ),
        (_set("keypoints", [1, 2, 1]), "annotation 1.*: found 1 points, expected 5 as in"),
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
    root = coco(tmp_path, lambda content: content["images"][0].pop("id"))
    with pytest.raises(DataError, match=r"train.json, image 0: expected an id and a file_name"):
        read("coco", root)
    (tmp_path / "own_train.json").write_text("{}")
    with pytest.raises(DataError, match=r"found own_train.json, train.json for the split 'train'"):
        read("coco", tmp_path)
