"""The synthetic faces: reproducible, exact, anatomical, and varied."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from ccdn.config import DataConfig, SyntheticConfig
from ccdn.data import CropDataset, Face, FaceSet, layout, read_300w
from ccdn.plan.faces import open_split
from ccdn.synthetic_faces import VERSION, SyntheticFaces, write_300w
from ccdn.synthetic_faces.anatomy import ALL_POINTS, SIXTY_EIGHT, Anatomy, in_layout
from ccdn.synthetic_faces.camera import Camera, look_at, rotation
from ccdn.synthetic_faces.head import Head
from ccdn.synthetic_faces.parameters import (
    Expression,
    Identity,
    Pose,
    as_dict,
    sample_identity,
    shape_stream,
)

FRONTAL = Pose(yaw=0, pitch=0, roll=0, distance=12.0, extent=0.6, offset_x=0, offset_y=0)
RESTING = Expression(**dict.fromkeys(Expression.__dataclass_fields__, 0.0))


@cache
def identity() -> Identity:
    """The mean head, symmetric: whatever the generator's version draws."""
    drawn = [as_dict(sample_identity(shape_stream(0, index))) for index in range(200)]
    mean = {name: float(np.mean([one[name] for one in drawn])) for name in drawn[0]}
    return Identity(**{**mean, "asymmetry": 0.0})


def turned(yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> Pose:
    return Pose(**{**FRONTAL.__dict__, "yaw": yaw, "pitch": pitch, "roll": roll})


def landmarks_of(pose: Pose, count: int = 98, size: int = 200) -> np.ndarray:
    return look_at(Head(Anatomy(identity(), RESTING)), pose, size).landmarks(count)


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


# ---- landmarks ---------------------------------------------------------------------------------


def test_layouts_agree_where_they_share_points() -> None:
    few, many = SyntheticFaces(8, seed=5), SyntheticFaces(8, seed=5, points=98)
    for i in range(8):
        shared = SIXTY_EIGHT < 98
        assert shared.sum() == 60
        assert np.array_equal(
            few.face(i).landmarks[shared], many.face(i).landmarks[SIXTY_EIGHT[shared]]
        )
        assert np.array_equal(few.image(i), many.image(i))


def test_68_points_divide_a_lid_in_thirds_and_98_in_quarters() -> None:
    """Both lie on the same painted curve: in front view their x divides the line of the corners."""
    anatomy = Anatomy(identity(), RESTING)
    points = np.concatenate([np.zeros((33, 2)), anatomy.features()])
    assert len(points) == ALL_POINTS
    few, many = in_layout(points, 68), in_layout(points, 98)
    for side, corners, first, quarters in ((-1, (36, 39), 36, 60), (1, (42, 45), 42, 68)):
        left, right = few[list(corners), 0]
        at = np.array([0, 1, 2, 3, 2, 1]) / 3
        np.testing.assert_allclose(few[first : first + 6, 0], left + at * (right - left))
        at = np.array([0, 1, 2, 3, 4, 3, 2, 1]) / 4
        np.testing.assert_allclose(many[quarters : quarters + 8, 0], left + at * (right - left))
        for upper, chosen in (
            (True, few[[first + 1, first + 2]]),
            (False, few[first + 4 : first + 6]),
        ):
            edge = anatomy.lid(side, upper)
            apart = np.linalg.norm(chosen[:, None] - edge[None], axis=2).min(axis=1)
            assert apart.max() == 0


@pytest.mark.parametrize("points", [68, 98])
def test_mirror_agrees_with_the_layout(points: int) -> None:
    """A symmetric head turned the other way is the mirror image, renumbered by `flip`."""
    right = landmarks_of(turned(yaw=25, pitch=8, roll=12), points)
    left = landmarks_of(turned(yaw=-25, pitch=8, roll=-12), points)
    mirrored = left * [-1, 1] + [199, 0]
    np.testing.assert_allclose(right, mirrored[list(layout(points).flip)], atol=1e-3)


def test_frontal_resting_face_is_anatomical() -> None:
    p = landmarks_of(FRONTAL, 68)
    x, y = p[:, 0], p[:, 1]
    assert np.all(np.diff(x[:17]) > 0)  # the jaw from left to right
    assert np.argmax(y) == 8  # the chin is lowest
    assert np.all(np.diff(x[17:27]) > 0)  # brows, outer to inner to outer
    assert np.all(np.diff(y[27:31]) > 0)  # the ridge runs down
    assert np.all(np.diff(x[31:36]) > 0)
    assert y[17:27].max() < y[36:48].min()  # brows over eyes
    assert y[36:48].max() < y[31:36].min() < y[31:36].max() < y[48:].min()  # eyes, nose, mouth
    assert y[48:].max() < y[8]
    assert y[37] < y[41]  # upper lid over lower lid
    assert y[44] < y[46]
    assert x[36] < x[39] < x[42] < x[45]
    assert x[48] < x[60] < x[64] < x[54]
    assert y[51] < y[62] <= y[66] < y[57]
    # Between the outer corners of the eyes lies less than the width of the face, more than half.
    assert 0.5 < (x[45] - x[36]) / (x[16] - x[0]) < 0.85
    q = landmarks_of(FRONTAL, 98)
    for pupil, first in ((96, 60), (97, 68)):
        lids = q[first : first + 8]
        assert np.all(q[pupil] > lids.min(axis=0))
        assert np.all(q[pupil] < lids.max(axis=0))


def test_expression_moves_what_it_should() -> None:
    def points(**change: float) -> np.ndarray:
        face = Expression(**{**RESTING.__dict__, **change})
        head = Head(Anatomy(identity(), face))
        return Camera(np.eye(3), 1e6, 100.0, np.zeros(2)).project(head.lift(face_points(head)))

    def face_points(head: Head) -> np.ndarray:
        return head.anatomy.features()[SIXTY_EIGHT[17:] - 33]

    rest = points()
    at = {name: number - 17 for name, number in
          {"inner_up": 62, "inner_low": 66, "left": 48, "right": 54, "lid": 37, "under": 41,
           "brow": 19}.items()}  # fmt: skip
    y = 1
    opened = points(open=1.0)
    gap = opened[at["inner_low"], y] - opened[at["inner_up"], y]
    assert gap > 20 > rest[at["inner_low"], y] - rest[at["inner_up"], y] + 15
    smiling = points(smile=1.0)
    assert smiling[at["left"], y] < rest[at["left"], y] - 5
    assert np.ptp(smiling[[at["left"], at["right"]], 0]) > np.ptp(
        rest[[at["left"], at["right"]], 0]
    )
    shut = points(close_left=1.0)
    assert abs(shut[at["lid"], y] - shut[at["under"], y]) < 1.5
    assert rest[at["under"], y] - rest[at["lid"], y] > 6
    assert points(raised=1.0)[at["brow"], y] < rest[at["brow"], y] - 5


def test_signs_of_the_angles() -> None:
    tip, chin, corners = 54, 16, [60, 72]
    front = landmarks_of(FRONTAL)
    middle = front[corners].mean(axis=0)
    right = landmarks_of(turned(yaw=20))
    assert right[tip, 0] - right[corners, 0].mean() > 5 + front[tip, 0] - middle[0]
    up = landmarks_of(turned(pitch=20))
    assert up[tip, 1] - up[corners, 1].mean() < front[tip, 1] - middle[1] - 5
    tilted = landmarks_of(turned(roll=20))
    assert tilted[72, 1] > tilted[60, 1] + 5
    assert tilted[chin, 0] < front[chin, 0]
    for angles in ((30, 20, 10), (-45, 0, 90)):
        matrix = rotation(*angles)
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(matrix) == pytest.approx(1.0)


def test_landmarks_lie_on_the_rendered_surface() -> None:
    """The mesh that is rendered passes through the landmarks."""
    head = Head(Anatomy(identity(), RESTING))
    features = head.anatomy.features()
    lifted = head.lift(features)
    np.testing.assert_allclose(lifted[:, :2], features, atol=1e-9)
    # Interpolate the mesh that is rendered at the same places.
    mesh = head.mesh
    for point in lifted:
        near = np.linalg.norm(mesh.reshape(-1, 3)[:, :2] - point[:2], axis=1)
        near[mesh.reshape(-1, 3)[:, 2] < 0] = np.inf
        assert abs(mesh.reshape(-1, 3)[near.argmin(), 2] - point[2]) < 0.13


@pytest.mark.parametrize("yaw", [-35.0, -20.0, 20.0, 35.0])
def test_jaw_follows_the_visible_outline(yaw: float) -> None:
    """On the side turned away the points lie on the outline of the head, on the near side not."""
    head = Head(Anatomy(identity(), RESTING))
    view = look_at(head, turned(yaw=yaw), 200)
    mesh = np.rint(view.camera.project(head.mesh)[..., :2] * 16).astype(np.int32)
    mask = np.zeros((200, 200), np.uint8)
    for row in range(mesh.shape[0] - 1):
        for column in range(mesh.shape[1] - 1):
            quad = mesh[row : row + 2, column : column + 2].reshape(4, 2)[[0, 1, 3, 2]]
            cv2.fillConvexPoly(mask, quad, 1, cv2.LINE_8, 4)
    # Along a row, because the outline is steep there. Turned farther, the nose would stand out.
    far, near = (range(26, 32), range(1, 7)) if yaw > 0 else (range(1, 7), range(26, 32))

    def depth_inside(point: np.ndarray) -> float:
        columns = np.flatnonzero(mask[round(float(point[1]))])
        return float(min(point[0] - columns[0], columns[-1] - point[0]))

    assert max(abs(depth_inside(view.pixels[i])) for i in far) < 2.5
    assert min(depth_inside(view.pixels[i]) for i in near) > 1.5
    # The near side keeps to the line before the ear; the far side has slid from it.
    line = view.camera.project(head.lift(head.jaw(np.linspace(-1, 1, 801))))
    apart = np.linalg.norm(view.pixels[:33, None, :2] - line[:, :2], axis=2).min(axis=1)
    assert apart[list(near)].max() < 0.5
    assert apart[list(far)].max() > 3


@pytest.mark.parametrize("yaw", [-35.0, 0.0, 20.0])
def test_jaw_is_evenly_divided_in_the_picture(yaw: float) -> None:
    jaw = landmarks_of(turned(yaw=yaw, pitch=8))[:33]
    quarters = np.linalg.norm(np.diff(jaw, axis=0), axis=1).reshape(2, 4, 4).sum(axis=2)
    # The last quarter of each side, next to the chin, has two shorter steps.
    for long, chin in ((quarters[0, :3], quarters[0, 3]), (quarters[1, 1:], quarters[1, 0])):
        assert long.max() < 1.06 * long.min()
        assert 0.90 * long.mean() < chin < long.mean()


def test_pose_stays_in_its_range_and_fills_it() -> None:
    faces = SyntheticFaces(400, seed=0, pose=(30, 15, 10))
    poses = [faces.parameters(i)["pose"] for i in range(400)]
    for name, bound in (("yaw", 30), ("pitch", 15), ("roll", 10)):
        angles = np.array([pose[name] for pose in poses])
        assert np.abs(angles).max() <= bound
        assert angles.max() > 0.9 * bound
        assert angles.min() < -0.9 * bound
        assert abs(angles.mean()) < 0.15 * bound
    assert SyntheticFaces(1, pose=45).pose == (45.0, 25.0, 30.0)
    still = SyntheticFaces(2, pose=(0, 0, 0))
    assert still.parameters(1)["pose"]["yaw"] == 0


def test_boxes_are_near_the_landmarks() -> None:
    faces = SyntheticFaces(60, seed=2)
    ratios = []
    for i in range(60):
        face = faces.face(i)
        low, high = face.landmarks.min(axis=0), face.landmarks.max(axis=0)
        assert low.min() > 0
        assert high.max() < faces.size - 1
        extent = high - low
        assert face.box is not None
        inner = np.maximum(face.box[:2], low), np.minimum(face.box[2:], high)
        overlap = np.prod(inner[1] - inner[0])
        union = np.prod(extent) + np.prod(face.box[2:] - face.box[:2]) - overlap
        ratios.append(overlap / union)
    assert min(ratios) > 0.7
    assert np.std(ratios) > 0.01


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
