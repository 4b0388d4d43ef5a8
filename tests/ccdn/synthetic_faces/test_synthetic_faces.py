"""The synthetic faces: reproducible, varied, and written as 300W is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ccdn.config import DataConfig, SyntheticConfig
from ccdn.data import CropDataset, Face, FaceSet, read_300w
from ccdn.plan.faces import open_split
from ccdn.synthetic_faces import VERSION, SyntheticFaces, write_300w

# ---- the data set ------------------------------------------------------------------------------


@pytest.mark.parametrize("points", [19, 29, 68, 98])
def test_is_a_face_set(points: int) -> None:
    faces = SyntheticFaces(3, seed=4, points=points, size=96)
    assert isinstance(faces, FaceSet)
    assert len(faces) == 3
    assert faces.points == points
    face, image = faces.face(2), faces.image(2)
    assert isinstance(face, Face)
    assert face.landmarks.shape == (points, 2)
    assert face.landmarks.dtype == np.float32
    assert face.box is not None
    assert face.box.shape == (4,)
    assert face.box.dtype == np.float32
    assert image.shape == (96, 96, 3)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert faces.visible(2).shape == (points,)
    assert faces.visible(2).dtype == bool
    assert len({faces.face(i).name for i in range(3)}) == 3


def test_same_numbers_from_a_configuration() -> None:
    made = SyntheticConfig(train=2, seed=3, size=64)
    opened = open_split(DataConfig(kind="synthetic", synthetic=made), "train", 98)
    expected = SyntheticFaces(2, 3, points=98, size=64, pose=made.pose, occlusion=made.occlusion)
    assert np.array_equal(opened.image(1), expected.image(1))


def test_face_depends_on_seed_and_index_only() -> None:
    forward = SyntheticFaces(6, seed=1, size=96)
    images = [forward.image(i) for i in range(6)]
    longer = SyntheticFaces(1000, seed=1, size=96)
    for i in (5, 0, 3, 3, 1):
        # The last one asked for its landmarks only after others were rendered.
        assert np.array_equal(longer.image(i), images[i])
        assert np.array_equal(longer.face(i).landmarks, forward.face(i).landmarks)
        assert np.array_equal(longer.face(i).box, forward.face(i).box)
        assert np.array_equal(longer.visible(i), forward.visible(i))
    other = SyntheticFaces(6, seed=2, size=96)
    assert not np.array_equal(other.image(0), images[0])
    assert not np.array_equal(other.face(0).landmarks, forward.face(0).landmarks)
    assert not np.array_equal(images[0], images[1])


def test_same_bits_in_another_process_with_other_threads() -> None:
    code = (
        "import cv2, hashlib; cv2.setNumThreads({threads});"
        "from ccdn.synthetic_faces import SyntheticFaces; f = SyntheticFaces(4, 9, size=128);"
        "h = hashlib.sha256();"
        "[h.update(f.image(i).tobytes() + f.face(i).landmarks.tobytes()) for i in range(4)];"
        "print(h.hexdigest())"
    )
    hashes = {
        subprocess.run(
            [sys.executable, "-c", code.format(threads=threads)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in (1, 2)
    }
    assert len(hashes) == 1


def test_changing_a_returned_array_changes_nothing() -> None:
    faces = SyntheticFaces(1, size=64)
    image, landmarks, visible = faces.image(0), faces.face(0).landmarks, faces.visible(0)
    before = image.copy(), landmarks.copy(), visible.copy()
    image[:], landmarks[:], visible[:] = 0, 0, False
    assert np.array_equal(faces.image(0), before[0])
    assert np.array_equal(faces.face(0).landmarks, before[1])
    assert np.array_equal(faces.visible(0), before[2])


def test_describe_can_make_the_faces_again() -> None:
    faces = SyntheticFaces(5, seed=7, points=98, size=72, pose=(20, 10, 5), occlusion=0.5)
    about = json.loads(json.dumps(faces.describe()))
    assert about["version"] == VERSION
    again = SyntheticFaces(
        about["count"],
        about["seed"],
        points=about["points"],
        size=about["size"],
        pose=tuple(about["largest_yaw_pitch_roll"]),
        occlusion=about["occlusion"],
        fresh=about["fresh"],
    )
    assert np.array_equal(again.image(4), faces.image(4))


def test_fresh_faces_are_others_in_every_epoch_and_come_once() -> None:
    fresh, all_of_them = SyntheticFaces(3, size=64, fresh=True), SyntheticFaces(9, size=64)
    crops = CropDataset(fresh, size=32, augmentation="none", seed=0)
    kept = SyntheticFaces(3, size=64)
    kept.set_epoch(2)
    assert np.array_equal(kept.face(1).landmarks, all_of_them.face(1).landmarks)
    for epoch in (0, 2, 1):
        crops.set_epoch(epoch)
        for index in range(3):
            expected = 3 * epoch + index
            assert fresh.face(index).name == all_of_them.face(expected).name
            assert np.array_equal(fresh.image(index), all_of_them.image(expected))
            assert np.array_equal(fresh.visible(index), all_of_them.visible(expected))
            assert fresh.attributes(index) == all_of_them.attributes(expected)
            crop = CropDataset(all_of_them, size=32, augmentation="none", seed=0).arrays(expected)
            for mine, other in zip(crops.arrays(index), crop, strict=True):
                assert np.array_equal(mine, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 0}, "found 0, expected at least 1"),
        ({"seed": -1}, "found -1"),
        ({"points": 30}, "found 30, expected one of 19, 29, 68, 98"),
        ({"size": 8}, "found 8, expected 32 to 1024"),
        ({"pose": (100, 0, 0)}, "expected the largest yaw"),
        ({"pose": (10, 10)}, "expected the largest yaw"),
        ({"pose": -5.0}, "expected the largest yaw"),
        ({"occlusion": 1.5}, "found 1.5"),
    ],
)
def test_bad_settings_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SyntheticFaces(**{"count": 2, **change})  # type: ignore[arg-type]


def test_index_out_of_range() -> None:
    faces = SyntheticFaces(2)
    for index in (2, -1):
        with pytest.raises(IndexError, match="of 2 synthetic faces"):
            faces.face(index)


# ---- pictures ----------------------------------------------------------------------------------


def test_pictures_are_neither_empty_nor_alike() -> None:
    faces = SyntheticFaces(40, seed=6, size=96)
    images = np.stack([faces.image(i) for i in range(40)]).astype(np.float64)
    means, spreads = images.mean(axis=(1, 2, 3)), images.std(axis=(1, 2, 3))
    assert means.min() > 15
    assert means.max() < 240
    assert spreads.min() > 8
    assert means.std() > 15
    flat = images.mean(axis=-1).reshape(40, -1)
    alike = np.corrcoef(flat) - np.eye(40)
    assert alike.max() < 0.95


def test_picture_shows_the_landmarks() -> None:
    """Pupils are darker than the white next to them: eyes are painted where the landmarks are."""
    darker = []
    faces = SyntheticFaces(120, seed=8, points=98, occlusion=0.0)
    for i in range(120):
        drawn = faces.parameters(i)
        visible = faces.visible(i)
        image = faces.image(i).mean(axis=-1)
        points = faces.face(i).landmarks
        for side, pupil, first in (("left", 96, 60), ("right", 97, 68)):
            if drawn["expression"][f"close_{side}"] > 0.15 or not visible[first : first + 8].all():
                continue
            corners = points[[first, first + 4]]
            # Two fifths of the way to each corner: white of the eye, if the gaze is straight.
            beside = points[pupil] + 0.62 * (corners - points[pupil])
            at = np.rint(np.vstack([points[pupil][None], beside])).astype(int)
            values = image[at[:, 1], at[:, 0]]
            darker.append(values[0] < values[1:].max())
    assert len(darker) > 60
    assert np.mean(darker) > 0.85


def test_visibility_follows_turning_and_occlusion() -> None:
    free = SyntheticFaces(30, seed=3, points=98, size=96, pose=(0, 0, 0), occlusion=0.0)
    covered = SyntheticFaces(30, seed=3, points=98, size=96, pose=(0, 0, 0), occlusion=1.0)
    seen = np.array([free.visible(i) for i in range(30)])
    hidden = np.array([covered.visible(i) for i in range(30)])
    assert seen[:, 51:60].mean() > 0.97  # nothing covers a nose seen from the front
    assert hidden.mean() < seen.mean() - 0.05
    wide = SyntheticFaces(400, seed=3, points=98, size=96, pose=(90, 0, 0), occlusion=0.0)
    profiles = [i for i in range(400) if wide.parameters(i)["pose"]["yaw"] > 70]
    assert len(profiles) > 5
    sides = np.array([wide.visible(i)[[60, 72]] for i in profiles])
    assert sides[:, 1].mean() < 0.2  # the far eye is behind the nose


def test_size_changes_scale_only() -> None:
    small, large = SyntheticFaces(3, seed=1, size=80), SyntheticFaces(3, seed=1, size=160)
    for i in range(3):
        # The centre of a picture is (size - 1) / 2: pixel centres lie at integers.
        a = (small.face(i).landmarks - 39.5) / 80
        b = (large.face(i).landmarks - 79.5) / 160
        np.testing.assert_allclose(a, b, atol=1e-4)


# ---- files and command -------------------------------------------------------------------------


def test_300w_round_trip(tmp_path: Path) -> None:
    train, test = SyntheticFaces(10, seed=0, size=64), SyntheticFaces(6, seed=1, size=64)
    assert write_300w(tmp_path, train, test) == 16
    with pytest.warns(UserWarning, match="afw: found 1, expected 337"):
        read = read_300w(tmp_path, "train")
    assert len(read) == 10
    with pytest.warns(UserWarning, match="expected 689"):
        full = read_300w(tmp_path, "full")
    assert len(full) == 6
    for faces, found in ((train, read), (test, full)):
        by_number = {int(found.face(k).name[-5:]): k for k in range(len(found))}
        assert sorted(by_number) == list(range(len(faces)))
        for i, k in by_number.items():
            landmarks = found.face(k).landmarks
            np.testing.assert_allclose(landmarks, faces.face(i).landmarks, atol=1e-4)
            difference = found.image(k).astype(int) - faces.image(i)
            assert np.abs(difference).mean() < 6  # JPEG
    about = json.loads((tmp_path / "synthetic.json").read_text())
    assert about["train"]["seed"] == 0
    assert about["test"]["version"] == VERSION


def test_300w_refuses_what_it_cannot_write(tmp_path: Path) -> None:
    faces = SyntheticFaces(2, size=64)
    with pytest.raises(ValueError, match="found synthetic faces with 98"):
        write_300w(tmp_path, SyntheticFaces(2, points=98))
    with pytest.raises(ValueError, match="different seeds, found 0"):
        write_300w(tmp_path, faces, SyntheticFaces(2, seed=0))
    write_300w(tmp_path, faces)
    with pytest.raises(ValueError, match="not empty"):
        write_300w(tmp_path, faces)


def test_command_writes_contact_sheets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ccdn.cli.data import main

    common = ["generate", "--count", "4", "--size", "64", "--out", str(tmp_path / "out")]
    assert main([*common, "--points", "98"]) == 0
    assert '"points": 98' in capsys.readouterr().out
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "faces.json",
        "faces.png",
        "landmarks.png",
    }
    assert main([*common, "--occlusion", "7"]) == 2
    assert "found 7.0" in capsys.readouterr().err
