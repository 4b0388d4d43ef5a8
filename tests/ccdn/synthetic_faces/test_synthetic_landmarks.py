"""The landmarks of the synthetic faces: anatomical, exact, on the rendered surface."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import pytest

from ccdn.data import layout
from ccdn.synthetic_faces import SyntheticFaces
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
