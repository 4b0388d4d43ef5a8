"""The 300W reader: splits, official layout, warnings and errors."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ccdn.data import DataError, FaceSet, open_faces, read_300w
from ccdn.data.readers.w300 import PART_SIZES, SPLITS

pytestmark = pytest.mark.check


def _read(root: Path, split: str, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read_300w(root, split, **options)


@pytest.mark.parametrize(
    ("split", "parts"),
    [
        ("train", {"afw", "helen/trainset", "lfpw/trainset"}),
        ("common", {"helen/testset", "lfpw/testset"}),
        ("challenging", {"ibug"}),
        ("full", {"helen/testset", "lfpw/testset", "ibug"}),
        ("test", {"helen/testset", "lfpw/testset", "ibug"}),
        ("helen", {"helen/testset"}),
        ("lfpw", {"lfpw/testset"}),
        ("afw", {"afw"}),
        ("helen/trainset", {"helen/trainset"}),
    ],
)
def test_splits_hold_their_parts(w300: Path, split: str, parts: set[str]) -> None:
    faces = _read(w300, split)
    assert isinstance(faces, FaceSet)
    assert faces.points == 68
    assert len(faces) == 2 * len(parts)
    assert {faces.face(i).group for i in range(len(faces))} == parts
    assert len({faces.face(i).name for i in range(len(faces))}) == len(faces)


def test_landmarks_and_images(w300: Path, landmarks: Callable, picture: Callable) -> None:
    faces = _read(w300, "afw")
    assert [faces.face(i).name for i in range(2)] == ["afw/image 2", "afw/image_1"]
    np.testing.assert_allclose(faces.face(1).landmarks, landmarks(0), atol=1e-5)
    np.testing.assert_array_equal(faces.image(1), picture(0))
    assert faces.face(1).box is None


def test_counts_are_compared_with_the_official_ones(w300: Path) -> None:
    with pytest.warns(UserWarning, match=r"4 faces, expected 554.*helen/testset: found 2, expect"):
        read_300w(w300, "common")


def test_the_official_sizes() -> None:
    """Sagonas et al. 2013: 3148 faces for training; common, challenging and full for testing."""
    assert {split: sum(PART_SIZES[part] for part in SPLITS[split]) for split in SPLITS} == {
        "train": 3148,
        "common": 554,
        "challenging": 135,
        "full": 689,
        "test": 689,
        "helen": 330,
        "lfpw": 224,
        "afw": 337,
        "helen/trainset": 2000,
        "lfpw/trainset": 811,
        "helen/testset": 330,
        "lfpw/testset": 224,
        "ibug": 135,
    }


def test_absent_part_is_a_warning_naming_it(w300: Path) -> None:
    for path in (w300 / "ibug").iterdir():
        path.unlink()
    (w300 / "ibug").rmdir()
    with pytest.warns(UserWarning, match=r"ibug: found 0, expected 135"):
        assert len(read_300w(w300, "full")) == 4


def test_nothing_found_names_what_was_looked_for(w300: Path, tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    parent.mkdir()
    with pytest.raises(DataError, match=r"no 300W faces.*ibug.*must be the folder that holds afw/"):
        read_300w(parent, "challenging")
    with pytest.raises(DataError, match="no such folder"):
        read_300w(tmp_path / "absent")
    with pytest.raises(DataError, match=r"no split 'val', expected one of train, common"):
        read_300w(w300, "val")


def test_mirrored_copies_and_hidden_files_are_left_out(w300: Path, write_face: Callable) -> None:
    write_face(w300 / "ibug" / "image_1_mirror.jpg", 50)
    (w300 / "ibug" / "._image_1.pts").write_bytes(b"\0\x05\x16\x07")
    (w300 / "ibug" / "readme.txt").write_text("terms of use")
    assert len(_read(w300, "ibug")) == 2


def _break(root: Path, fault: str) -> tuple[Path, str]:
    image, annotation = root / "ibug" / "image_1.png", root / "ibug" / "image_1.pts"
    if fault == "no image":
        image.unlink()
        return annotation, r"expected one image of the same name next to it, found none"
    if fault == "no annotation":
        annotation.unlink()
        return annotation, r"annotation not found, expected next to image_1\.png"
    if fault == "two images":
        image.with_suffix(".jpg").write_bytes(image.read_bytes())
        return annotation, r"found image_1\.jpg, image_1\.png"
    annotation.write_text("version: 1\nn_points: 68\n{\n1 2\n")
    return annotation, "truncated"


@pytest.mark.parametrize("fault", ["no image", "no annotation", "two images", "corrupt"])
def test_bad_files_are_errors_or_counted(w300: Path, fault: str) -> None:
    path, message = _break(w300, fault)
    with pytest.raises(DataError, match=message) as caught:
        _read(w300, "full")
    assert str(path) in str(caught.value)
    faces = _read(w300, "full", skip_bad=True)
    assert len(faces) == 5
    assert faces.skipped.count == 1
    assert str(path) in faces.skipped.reasons[0]


def test_bad_images_speak_when_read_or_are_counted(w300: Path) -> None:
    image = w300 / "ibug" / "image_1.png"
    image.write_bytes(image.read_bytes()[:-200])
    faces = _read(w300, "ibug")
    with pytest.raises(DataError, match=r"image_1\.png: the image file is truncated"):
        faces.image(1)
    faces = _read(w300, "ibug", skip_bad=True)
    assert (len(faces), faces.skipped.count) == (1, 1)


def test_all_bad_is_an_error_even_when_skipping(w300: Path) -> None:
    for path in (w300 / "ibug").glob("*.pts"):
        path.write_text("nothing")
    with pytest.raises(DataError, match=r"no usable face \(2 skipped\)"):
        _read(w300, "ibug", skip_bad=True)


def test_open_faces_knows_300w(w300: Path) -> None:
    with pytest.warns(UserWarning, match="not the official one"):
        assert len(open_faces("300w", w300, "ibug", points=68)) == 2
    with pytest.raises(DataError, match="300W ibug has 68 points, the configuration asks for 98"):
        open_faces("300w", w300, "ibug", points=98)
    with pytest.raises(DataError, match="needs a root"):
        open_faces("300w")
    with pytest.raises(DataError, match=r"found data kind 'lfw', expected one of 300w"):
        open_faces("lfw", w300)


def test_real_faces(shared: Path) -> None:
    root = shared / "300w"
    faces = _read(root, "train")
    assert len(faces) == 2012
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        helen = read_300w(root, "helen")
    assert len(helen) == 330
    image = helen.image(0)
    spots = helen.face(0).landmarks
    assert (spots > 0).all()
    assert (spots < [image.shape[1], image.shape[0]]).all()
