"""Bad .mat files, of COFW, AFLW, COFW-68 and 300W's boxes: an error that names the file, the row,
found and expected.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from ccdn.data import DataError, open_faces
from ccdn.data.drawing import write_picture
from ccdn.data.readers import aflw, cofw
from ccdn.synthetic_faces import SyntheticFaces, write_protocol

pytestmark = pytest.mark.filterwarnings("ignore:.*is not the official one")

GREY = np.full((48, 56, 3), 90, np.uint8)


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
        open_faces("cofw", root, "train")
    if change in (_nan, _no_box):
        assert open_faces("cofw", root, "train", skip_bad=True).skipped.count == 1


def test_damaged_cofw_files(mats: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"COFW_train_color.mat: file not found"):
        open_faces("cofw", tmp_path, "train")
    whole = (mats["cofw"] / "COFW_train_color.mat").read_bytes()
    for size in (0, 100, 600, len(whole) // 2):
        (tmp_path / "COFW_train_color.mat").write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"COFW_train_color.mat"):
            open_faces("cofw", tmp_path, "train").image(3)


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
        ({"train_faces": "six"}, "found 8 faces, expected 24386, or the number of training faces"),
        ({"train_faces": None}, "found 8 faces, expected 24386, or the number of training faces"),
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
        open_faces("aflw", tmp_path, "train")


def test_damaged_aflw_files(mats: dict[str, Path], tmp_path: Path) -> None:
    name = "AFLWinfo_release.mat"
    whole = (mats["aflw"] / name).read_bytes()
    for content in (b"", b"MATLAB", whole[:200], whole[: len(whole) // 2]):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name):
            open_faces("aflw", tmp_path, "train")
    (tmp_path / name).write_bytes(whole)
    with pytest.raises(DataError, match="flickr: no such folder"):
        open_faces("aflw", tmp_path, "train")


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
        write_picture(tmp_path / f"data/flickr/{name}.jpg", GREY)
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

    faces = open_faces("cofw", changed_cofw(mats["cofw"], tmp_path, change), "train")
    with pytest.raises(DataError, match=f"COFW_train_color.mat, {message}"):
        faces.image(0)
    assert faces.image(1).shape == (48, 48, 3)
    assert [faces.face(i).name for i in (1, 2)] == ["train/0002", "train/0003"]
    assert faces.face(2).where.endswith("(COFW_train_color.mat, face 3)")
    assert open_faces("cofw", tmp_path, "train", skip_bad=True).skipped.count == 1


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


def test_each_face_of_cofw68_has_its_own_image(tmp_path: Path) -> None:
    import h5py

    sides = (40, 48, 56, 64)  # of the pictures 1 to 4, each of another size
    with h5py.File(tmp_path / "COFW_test_color.mat", "w") as file:
        cells = file.create_dataset("IsT", (1, len(sides)), h5py.ref_dtype)
        for cell, side in enumerate(sides):
            file[f"image{cell}"] = np.zeros((3, side, side), np.uint8)
            cells[0, cell] = file[f"image{cell}"].ref
    (tmp_path / "test_annotations").mkdir()
    corners = np.tile([[1.0, 1.0], [0.0, 0.0]], (34, 1))
    for number, side in enumerate(sides, 1):
        # Small, in the last corner of its picture: far outside every smaller one.
        points = {"Points": corners * 3 + side - 3, "Occ": np.zeros((1, 68))}
        scipy.io.savemat(tmp_path / f"test_annotations/{number}_points.mat", points)
    for skip_bad in (False, True):
        faces = open_faces("cofw68", tmp_path, "test", skip_bad=skip_bad)
        assert (len(faces), faces.skipped.count) == (len(sides), 0)
        assert [faces.image(i).shape[0] for i in range(len(sides))] == list(sides)


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
    write_picture(w300 / "ibug" / "image_1_mirror.jpg", GREY)
    (w300 / "ibug" / "image_1_mirror.pts").write_text("of the mirrored copy")
    with pytest.warns(UserWarning, match="ibug: found 2, expected 135"):
        assert len(open_faces("300w", root, "ibug")) == 2
