"""What the readers share: checked numbers, gathered faces, files found by their names."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from ccdn.data import DataError, Face, ImageFaces, detect_kind, subset_masks
from ccdn.data.faces import check_landmarks_inside, checked_box, checked_landmarks, is_coordinate
from ccdn.data.formats.mat import checked_shape
from ccdn.data.images import cv2
from ccdn.data.readers.gather import Reading, gather
from ccdn.data.readers.official_splits import check_size
from ccdn.data.readers.split_files import find_image, find_split_file

STRICT, SKIPPING = Reading(), Reading(skip_bad=True)
LARGEST = np.nextafter(1e9, 0)


def face(name: str = "a", points: int = 2, path: Path | None = None, **more: object) -> Face:
    spots = np.arange(2.0 * points, dtype=np.float32).reshape(points, 2)
    return Face(name, spots, path=path, **more)  # type: ignore[arg-type]


def test_the_name_of_a_face_in_an_error() -> None:
    assert face().where == "a"
    assert face(path=Path("b.png")).where == "b.png"
    assert face(path=Path("b.png"), source="c.csv, line 2").where == "b.png (c.csv, line 2)"


@pytest.mark.parametrize("value", [0.0, -LARGEST, LARGEST])
def test_coordinates(value: float) -> None:
    assert is_coordinate(value)
    assert checked_landmarks(np.array([1, value]), "here").tolist() == [[1, np.float32(value)]]
    assert checked_box([-LARGEST, -1, LARGEST, 1], "here").dtype == np.float32


@pytest.mark.parametrize("value", [1e9, -1e9, np.inf, -np.inf, np.nan])
def test_no_coordinates(value: float) -> None:
    assert not is_coordinate(value)
    with pytest.raises(DataError, match=r"here: found landmark 1 at \(2\.0, .*expected finite"):
        checked_landmarks(np.array([0, 1, 2, value]), "here")
    for place in range(4):
        box = [0.0, 0, 9, 9]
        box[place] = value
        with pytest.raises(DataError, match="here: found an empty or inverted box"):
            checked_box(box, "here")


@pytest.mark.parametrize("box", [[3, 0, 3, 1], [4, 0, 3, 1], [0, 2, 1, 2], [0, 3, 1, 2]])
def test_boxes_without_an_area(box: list[float]) -> None:
    shown = ", ".join(map(str, box))
    with pytest.raises(DataError, match=rf"found an empty or inverted box \({shown}\), expected"):
        checked_box(box, "here")


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("beyond", [False, True])
def test_landmarks_may_lie_half_a_side_outside(axis: int, beyond: bool) -> None:
    last = (40 - 1, 30 - 1)[axis]
    for border, outward in ((0, -1), (last, 1)):
        spots = np.full((3, 2), 10, np.float32)
        spots[1, axis] = border + outward * (4 + 0.25 * beyond)
        found = Face("a", spots)
        if beyond:
            with pytest.raises(DataError, match=r"a: landmark 1 at \(.*image of 40 x 30 pixels"):
                check_landmarks_inside(found, 40, 30, 8)
        else:
            check_landmarks_inside(found, 40, 30, 8)


def test_faces_are_gathered_or_counted(tmp_path: Path) -> None:
    image, broken = tmp_path / "a.png", tmp_path / "b.png"
    assert cv2.imwrite(str(image), np.zeros((8, 8, 3), np.uint8))
    broken.write_bytes(b"none")
    good = [face(path=image), face(path=image), face("c", path=image), face(path=image)]
    faces, skipped = gather(good, lambda row: row, STRICT)
    assert [found.name for found in faces] == ["a", "a#2", "c", "a#3"]
    assert skipped.count == 0

    far = Face("far", np.array([[0, 1], [2, 900]], np.float32), path=image)
    bad = {
        "c: found 3 points, expected 2 as in": face("c", 3),
        "b.png: not an image": face(path=broken),
        "none.png: image not found": face(path=tmp_path / "none.png"),
        r"landmark 1 at \(2.0, 900.0\) is far outside the image of 8 x 8": far,
    }
    faces, skipped = gather([good[0], *bad.values(), good[1]], lambda row: row, SKIPPING)
    assert [found.name for found in faces] == ["a", "a#2"]
    for message, reason in zip(bad, skipped.reasons, strict=True):
        with pytest.raises(DataError, match=message):
            raise DataError(reason)
    # Without skip_bad no image is opened.
    assert len(gather([good[0], far, face(path=broken)], lambda row: row, STRICT)[0]) == 3
    with pytest.raises(DataError, match="image not found"):
        gather([face(path=tmp_path / "none.png")], lambda row: row, STRICT)


def test_sets_of_faces() -> None:
    with pytest.raises(DataError, match=r"made: no usable face \(0 skipped\)"):
        ImageFaces("made", [])
    with pytest.raises(DataError, match="b: found 3 points, expected 2 as in a"):
        ImageFaces("made", [face(), face("b", 3)])
    with pytest.raises(DataError, match="b: found 1 points, expected 2 as in a"):
        ImageFaces("made", [face(), face("b", 1)])
    faces = ImageFaces("made", [face(attributes={"blur": True}), face("b"), face("c")])
    assert repr(faces) == "ImageFaces('made', 3 faces, 2 points)"
    assert {name: mask.tolist() for name, mask in subset_masks(faces).items()} == {
        "blur": [True, False, False]
    }
    with pytest.raises(DataError, match="made: face b has no image file"):
        faces.image(1)


# Arrays of MATLAB files --------------------------------------------------------------------------


def test_a_squeezed_row_or_column_has_its_axis_back() -> None:
    for given in (np.arange(6), np.arange(6).reshape(2, 3)):
        found = checked_shape(given, (None, 3), Path("a.mat"), "data")
        assert found.tolist() == [[0, 1, 2], [3, 4, 5]]
        assert found.dtype == np.float64
    assert checked_shape(np.arange(3), (None,), Path("a.mat"), "data").shape == (3,)


@pytest.mark.parametrize(
    ("array", "shape", "message"),
    [
        (np.zeros(4), (None, 3), "found data of 4, expected any x 3"),
        (np.zeros((2, 4)), (None, 3), "found data of 2 x 4, expected any x 3"),
        (np.zeros((2, 2)), (3, 2), "found data of 2 x 2, expected 3 x 2"),
        (np.zeros((1, 2, 3)), (None, 3), "found data of 1 x 2 x 3, expected any x 3"),
        (np.zeros((2, 3)), (None,), "found data of 2 x 3, expected any"),
        (np.zeros(()), (None,), "found data of a single value, expected any"),
        (np.array(["a", "b"]), (None,), "found data of <U1, expected numbers"),
    ],
)
def test_arrays_of_another_shape(array: np.ndarray, shape: tuple, message: str) -> None:
    with pytest.raises(DataError, match=f"a.mat: {message}$"):
        checked_shape(array, shape, Path("a.mat"), "data")


def test_a_size_that_is_not_the_official_one_is_told() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_size(Path("root"), "WFLW", "train", 3, {"train": 3})
    for found in (2, 4):
        with pytest.warns(UserWarning, match=f"'train' of WFLW .*found {found} faces, expected 3"):
            check_size(Path("root"), "WFLW", "train", found, {"train": 3})


# Files by their names ----------------------------------------------------------------------------


def test_the_file_of_a_split(tmp_path: Path) -> None:
    def find(split: str = "train") -> str:
        return find_split_file(tmp_path, split, ".csv", "a table").name

    def add(*names: str) -> None:
        for name in names:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()

    with pytest.raises(DataError, match=r"found no \.csv file, expected a table of the split"):
        find()
    add("train.txt", ".train.csv", "retrain.csv", "other.csv")
    with pytest.raises(DataError, match=r"other.csv, retrain.csv, expected.*\*_train\.csv"):
        find()
    add("train_wflw.csv")
    assert find() == "train_wflw.csv"
    add("annotations/own_train.CSV")
    assert find() == "own_train.CSV"  # an end before a beginning
    add("train.csv")
    with pytest.raises(DataError, match=r"found train.csv, own_train.CSV for the split 'train'"):
        find()
    assert find_split_file(tmp_path / "train.txt", "test", ".csv", "a table").name == "train.txt"
    with pytest.raises(DataError, match="none: no such file or folder, expected a table"):
        find_split_file(tmp_path / "none", "train", ".csv", "a table")


def test_the_kind_of_a_folder_or_file(tmp_path: Path) -> None:
    header = "image_name,scale,center_w,center_h,original_0_x,original_0_y"
    contents = {"a.json": "{}", "hrnet.csv": header, "own.csv": "image,x0,y0", "x.bin": b"\xff\xfe"}
    kinds = {"a.json": "coco", "hrnet.csv": "hrnet", "own.csv": "folder", "x.bin": "folder"}
    for name, content in contents.items():
        path = tmp_path / name.replace(".", "-") / name
        path.parent.mkdir()
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8-sig"))
        assert detect_kind(path) == kinds[name]
        assert detect_kind(path.parent) == kinds[name]
    (tmp_path / "project" / "annotations").mkdir(parents=True)
    assert detect_kind(tmp_path / "project") == "folder"
    (tmp_path / "project" / "annotations" / "train.json").touch()
    assert detect_kind(tmp_path / "project") == "coco"


def test_the_images_of_a_table(tmp_path: Path) -> None:
    table = tmp_path / "annotations" / "train.csv"
    places = ["images", "WFLW_images", ".", "../images", "../WFLW_images", ".."]
    assert find_image(table, "a.png") == table.parent / "images" / "a.png"
    for place in reversed(places):
        path = table.parent / place / "a.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        assert find_image(table, "a.png").samefile(path)
