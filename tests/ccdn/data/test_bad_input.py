"""Bad files of every format: an error that names the file, the row, found and expected."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from ccdn.data import CropDataset, DataError, FaceSet, aflw, cofw, open_faces, wflw
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
    file["phisTr"][4, 2] = np.nan


def _no_box(file: Any) -> None:
    file["bboxesTr"][2, 1] = 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop, "no variable 'phisTr', expected IsTr, bboxesTr, phisTr"),
        (_shorten, "found 4 images, 4 boxes and 3 annotations, expected as many of each"),
        (_narrow, "found phisTr of 4 x 86, expected any x 87"),
        (_nan, "face 3: found landmark 4 at .nan"),
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


def test_an_aflw_file_number_by_number(tmp_path: Path) -> None:
    x, y = np.arange(57.0).reshape(3, 19), 100 + np.arange(57.0).reshape(3, 19)
    seen = np.ones((3, 19))
    seen[2, 5] = 0
    content = {
        "data": np.concatenate([x, y], 1),
        "bbox": [[1, 20, 3, 40], [2, 20, 3, 40], [3, 20, 4, 40]],
        "nameList": np.array(["a.jpg", "b.jpg", "c.jpg"], object),
        "mask_new": seen,
        "ra": [[3, 1, 2]],
        "train_faces": 1,
    }
    scipy.io.savemat(tmp_path / "AFLWinfo_release.mat", content)
    for name in "abc":
        picture(tmp_path / f"data/flickr/{name}.jpg")
    train, test = (open_faces("aflw", tmp_path, split) for split in ("train", "test"))
    names = [faces.face(i).name for faces in (train, test) for i in range(len(faces))]
    assert names == ["c.jpg", "a.jpg", "b.jpg"]
    face = train.face(0)
    assert face.landmarks.tolist() == np.stack([x[2], y[2]], 1).tolist()
    assert face.box is not None
    assert face.box.tolist() == [3, 4, 20, 40]
    assert (face.group, test.face(0).group) == ("train", "test")
    assert face.visible is not None
    assert np.flatnonzero(~face.visible).tolist() == [5]
    assert face.where.endswith("flickr/c.jpg (AFLWinfo_release.mat, face 3)")
    frontal = open_faces("aflw", tmp_path, "frontal")
    assert [frontal.face(i).name for i in range(len(frontal))] == ["a.jpg", "b.jpg"]
    scipy.io.savemat(tmp_path / "AFLWinfo_release.mat", {**content, "train_faces": 3})
    assert len(open_faces("aflw", tmp_path, "train")) == 3


def test_the_official_sizes_of_aflw(tmp_path: Path) -> None:
    assert aflw.SIZES == {"train": 20000, "test": 4386, "frontal": 1314}
    assert aflw._train_size(tmp_path / "not read", 24386) == 20000


def test_the_official_sizes_of_cofw() -> None:
    assert (cofw.SIZES, cofw.SIZES_68) == ({"train": 1345, "test": 507}, {"test": 507})


@pytest.mark.parametrize(
    ("box", "expected"),
    [([3, 4, 5, 6], [2, 3, 7, 9]), ([1, 1, 5, 6], [0, 0, 5, 6]), ([-3, 0.5, 9, 9], [0, 0, 5, 8.5])],
)
def test_a_box_of_cofw_is_clamped_at_its_corner(box: list[float], expected: list[float]) -> None:
    assert cofw._one_based(np.array(box)).tolist() == expected


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((3, 4, 5), np.uint16), r"image 1: found uint16 \(5, 4, 3\), expected uint8"),
        (np.zeros(5, np.uint8), r"image 1: found uint8 \(5,\), expected uint8"),
        (np.zeros((1, 3, 4, 5), np.uint8), r"image 1: found uint8 \(5, 4, 3, 1\), expected uint8"),
        (np.zeros((2, 4, 5), np.uint8), "image 1: found 2 channels, expected 3"),
        (np.zeros((4, 4, 5), np.uint8), "image 1: found 4 channels, expected 3"),
        (np.zeros((0, 4, 5), np.uint8), r"image 1: found uint8 \(5, 4, 0\), expected uint8"),
    ],
)
def test_images_of_cofw(
    image: np.ndarray, message: str, mats: dict[str, Path], tmp_path: Path
) -> None:
    def change(file: Any) -> None:
        file["other"] = image
        file["IsTr"][0, 0] = file["other"].ref

    faces = read("cofw", changed_cofw(mats["cofw"], tmp_path, change))
    with pytest.raises(DataError, match=f"COFW_train_color.mat, {message}"):
        faces.image(0)
    assert faces.image(1).shape == (48, 48, 3)
    assert [faces.face(i).name for i in (1, 2)] == ["train/0002", "train/0003"]
    assert faces.face(2).where.endswith("(COFW_train_color.mat, face 3)")
    assert read("cofw", tmp_path, skip_bad=True).skipped.count == 1


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
    assert face.where == "test/0002 (2_points.mat)"
    scipy.io.savemat(folder / "10_points.mat", {"Points": points, "Occ": occluded})
    (folder / "all_points.mat").write_bytes(b"not a face")
    scipy.io.savemat(folder / "4_points.mat", {"Points": points, "Occ": occluded})
    (folder / "10_points.mat").rename(tmp_path / "10_points.mat")
    faces = open_faces("cofw68", tmp_path, "test", skip_bad=True)
    assert (len(faces), faces.skipped.count) == (2, 0)
    (folder / "4_points.mat").unlink()
    (tmp_path / "10_points.mat").rename(folder / "10_points.mat")
    with pytest.raises(DataError, match=r"test_bboxes.mat: found 4 boxes, expected 10"):
        open_faces("cofw68", tmp_path, "test")
    boxes = np.arange(1.0, 41).reshape(10, 4)
    scipy.io.savemat(tmp_path / "cofw68_test_bboxes.mat", {"bboxes": boxes})
    faces = open_faces("cofw68", tmp_path, "test")
    assert [faces.face(i).name for i in range(2)] == ["test/0002", "test/0010"]
    assert np.array(faces.face(1).box).tolist() == [36, 37, 75, 77]
    assert np.array_equal(faces.image(0), open_faces("cofw", mats["cofw"], "test").image(1))
    (folder / "10_points.mat").unlink()
    (tmp_path / "COFW_test_color.mat").unlink()
    with pytest.raises(
        DataError, match=r"the images are in COFW_test_color\.mat, which is not there"
    ):
        open_faces("cofw68", folder, "test").image(0)
    assert open_faces("cofw68", folder, "test").face(0).box is None
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
    assert not caplog.records
    faces = read("coco", coco(tmp_path, _set("bbox", [9, 9, 4, 4])))
    assert np.array(faces.face(1).box).tolist() == [10, 11, 30, 31]
    # The crop ends at 11 + 1.25 * 4 / 2, a landmark lies at 19.
    assert "1 of 2 faces is too small" in caplog.text
    assert "crop: annotation 1 (id 1) by 110 %; center" in caplog.text

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
            r"annotation 1 \(id 1\): found 2 keypoint values",
        ),
        (_set("keypoints", []), r"annotation 1 \(id 1\): found 0 keypoint values, expected 3 a"),
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
