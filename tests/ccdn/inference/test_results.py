"""A face's measures, its plain values and its drawing; the pose of a head."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ccdn.data import generic_layout
from ccdn.inference.head_pose import head_pose
from ccdn.inference.results import Face, Faces
from ccdn.inference.scores import combined
from ccdn.synthetic_faces import SyntheticFaces

W300 = generic_layout(68)


def face(landmarks: np.ndarray | None = None, **fields: object) -> Face:
    points = np.zeros((68, 2), np.float32) if landmarks is None else landmarks.astype(np.float32)
    return Face(points, np.array([1.0, 2, 3, 4]), generic_layout(len(points)), **fields)  # type: ignore[arg-type]


def test_the_score_comes_from_what_is_known() -> None:
    assert face().score == 1
    assert face(detection_score=0.8).score == 0.8
    assert face(landmark_score=0.6).score == 0.6
    assert face(detection_score=0.8, landmark_score=0.6).score == combined(0.8, 0.6) < 0.6


@pytest.mark.parametrize("points", [68, 98])
def test_openings(points: int) -> None:
    """An eye of width 4 whose lids are 1 apart, one that is shut, a mouth open as far as wide."""
    landmarks = np.zeros((points, 2))
    left, right, mouth = (36, 42, 60) if points == 68 else (60, 68, 88)
    if points == 68:
        landmarks[left : left + 6] = [[0, 0], [1, -0.5], [3, -0.5], [4, 0], [3, 0.5], [1, 0.5]]
        landmarks[right : right + 6] = [[9, 0], [10, 0], [12, 0], [13, 0], [12, 0], [10, 0]]
    else:
        upper = [[0, 0], [1, -0.5], [2, -9], [3, -0.5], [4, 0], [3, 0.5], [2, 9], [1, 0.5]]
        landmarks[left : left + 8] = upper
        landmarks[right : right + 8] = [[9 + x, 0] for x, _ in upper]
    ring = [[0, 0], [1, -2], [2, -2], [3, -2], [4, 0], [3, 2], [2, 2], [1, 2]]
    landmarks[mouth : mouth + 8] = ring
    found = face(landmarks)
    assert found.eye_aspect_ratio() == pytest.approx((0.25, 0.0))
    assert found.mouth_aspect_ratio() == pytest.approx(1)
    assert face(np.zeros((points, 2))).mouth_aspect_ratio() == 0


def test_measures_need_a_layout() -> None:
    other = face(np.zeros((29, 2)))
    for measure in (other.eye_aspect_ratio, other.mouth_aspect_ratio):
        with pytest.raises(ValueError, match="expected 68 or 98 landmarks, found 29"):
            measure()
    with pytest.raises(ValueError, match=r"expected finite landmarks .* found \(29, 2\)"):
        other.head_pose()


def test_generated_eyes_shut() -> None:
    """The ratio follows the parameter that shuts the eye."""
    faces = SyntheticFaces(60, seed=4, pose=5)
    shut, ratios = [], []
    for index in range(len(faces)):
        drawn = faces.parameters(index)["expression"]
        shut += [drawn["close_left"], drawn["close_right"]]
        ratios += face(faces.face(index).landmarks).eye_aspect_ratio()
    assert np.corrcoef(shut, ratios)[0, 1] < -0.7


@pytest.mark.parametrize("points", [68, 98])
def test_head_pose_of_generated_faces(points: int) -> None:
    """Degrees, by exact landmarks; docs/predicting.md has the figures of 400 faces."""
    faces = SyntheticFaces(120, seed=80, points=points, pose=40)
    errors = []
    for index in range(len(faces)):
        pose, truth = head_pose(faces.face(index).landmarks), faces.parameters(index)["pose"]
        errors.append([getattr(pose, name) - truth[name] for name in ("yaw", "pitch", "roll")])
    assert (np.abs(errors).mean(0) < (3, 6, 1.5)).all()
    assert (np.abs(np.mean(errors, axis=0)) < (1, 2, 0.5)).all()


def test_head_pose_of_a_turned_picture() -> None:
    """The roll follows; yaw and pitch stay, and size and place do not matter."""
    landmarks = SyntheticFaces(1, seed=1).face(0).landmarks
    upright = head_pose(landmarks)
    turned = head_pose(landmarks[:, ::-1] * (-3, 3) + 700)  # clockwise by 90 degrees
    assert turned.roll - upright.roll == pytest.approx(90, abs=0.1)
    assert turned[:2] == pytest.approx(upright[:2], abs=0.1)


def test_plain_values() -> None:
    told = face(
        detection_score=0.91, spread=np.full(68, 0.5, np.float32), roll=90.0, id=3
    ).to_dict()
    assert json.loads(json.dumps(told)) == told
    assert told["box"] == [1, 2, 3, 4]
    assert len(told["landmarks"]) == len(told["spread"]) == 68
    assert (told["score"], told["roll"], told["id"]) == (0.91, 90, 3)
    assert "landmark_score" not in told
    assert set(face().to_dict()) == {"box", "landmarks", "score"}


def test_a_sequence_of_faces() -> None:
    one, two = face(detection_score=0.9), face(detection_score=0.3)
    given = face(landmark_score=0.1)
    faces = Faces([one, two, given], W300)
    assert list(faces) == [one, two, given]
    assert faces[1] is two
    assert list(faces[1:]) == [two, given]
    assert (faces.landmarks.shape, faces.boxes.shape) == ((3, 68, 2), (3, 4))
    np.testing.assert_allclose(faces.scores, [0.9, 0.3, 0.1])
    # A box that was given holds a face because the user says so.
    assert list(faces.at_least(0.5)) == [one, given]
    none = Faces([], W300)
    assert (none.landmarks.shape, none.boxes.shape, none.scores.shape) == ((0, 68, 2), (0, 4), (0,))
    assert repr(faces) == "Faces(3 faces, scores 0.90, 0.30, 0.10)"
    assert repr(none) == "Faces(0 faces)"


def test_drawing_leaves_the_picture() -> None:
    image = np.zeros((60, 60, 3), np.uint8)
    landmarks = np.random.default_rng(0).uniform(20, 40, (68, 2))
    drawn = face(landmarks).draw(image)
    assert not image.any()
    assert drawn.any()
    np.testing.assert_array_equal(drawn, Faces([face(landmarks)], W300).draw(image))
