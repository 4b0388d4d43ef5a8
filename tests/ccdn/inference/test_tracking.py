"""Faces of films keep their ids: who is whom, when the detector searches, what is forgotten."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ccdn.data import generic_layout, landmark_box
from ccdn.data.boxes import overlap
from ccdn.data.detection import Detections
from ccdn.inference.predictor import Predictor
from ccdn.inference.results import Face, Faces
from ccdn.inference.tracking import REMEMBERED, Tracker
from ccdn.synthetic_faces import SyntheticFaces

W300 = generic_layout(68)
SHAPES = [SyntheticFaces(2, seed=11, pose=10).face(i).landmarks.astype(float) for i in (0, 1)]
STEP = 1 / 30
BLANK = np.zeros((480, 640, 3), np.uint8)


def put(shape: int, x: float, y: float, side: float) -> np.ndarray:
    """The landmarks of one of two faces, in the middle of a box there."""
    points = SHAPES[shape]
    low, high = points.min(0), points.max(0)
    return (points - (low + high) / 2) * side / (high - low).max() + (x, y)


class Scene:
    """A predictor of made-up frames: it sees the true landmarks that a crop holds.

    A crop shows the face whose box overlaps it most; without one the landmarks are the crop's own
    shape with a low score. hidden: numbers of faces that the detector does not find.
    """

    layout = W300
    min_score = 0.5

    def __init__(self) -> None:
        self.faces: list[np.ndarray] = []
        self.hidden: set[int] = set()
        self.searched: list[int] = []
        self.frame = -1

    def detections(self, images: Sequence[np.ndarray]) -> list[Detections]:
        self.searched.append(self.frame)
        boxes = [landmark_box(f) for i, f in enumerate(self.faces) if i not in self.hidden]
        found = np.reshape(boxes, (-1, 4))
        return [Detections(found, np.full(len(found), 0.9)).largest_first()]

    def landmarks(self, images: Any, given: Sequence[Detections]) -> list[Faces]:
        places = zip(given[0].boxes, given[0].scores, strict=True)
        return [Faces([self._read(box, score) for box, score in places], W300)]

    def _read(self, box: np.ndarray, score: float) -> Face:
        best = max(self.faces, key=lambda f: overlap(landmark_box(f), box), default=None)
        known = None if np.isnan(score) else float(score)
        if best is None or overlap(landmark_box(best), box) < 0.2:
            middle, side = (box[:2] + box[2:]) / 2, float((box[2:] - box[:2]).max())
            return Face(put(0, *middle, side).astype("f4"), box, W300, known, 0.1)
        return Face(best.astype("f4"), box, W300, known, 0.95)


Script = Callable[[float], list[np.ndarray]]


def play(scene: Scene, tracker: Tracker, script: Script, frames: int) -> list[dict[int, Face]]:
    """The faces of each frame by id."""
    found = []
    for _ in range(frames):
        scene.frame += 1
        scene.faces = script(scene.frame * STEP)
        faces = tracker(BLANK, scene.frame * STEP)
        assert [face.id for face in faces] == sorted({face.id for face in faces})
        found.append({face.id: face for face in faces if face.id is not None})
    return found


def ids_of(found: list[dict[int, Face]], truth: Script) -> list[list[int | None]]:
    """For each frame, the id of each true face."""
    ids = []
    for frame, faces in enumerate(found):
        row: list[int | None] = []
        for points in truth(frame * STEP):
            box = landmark_box(points)
            best = max(faces, key=lambda i: overlap(faces[i].box, box), default=None)
            near = best is not None and overlap(faces[best].box, box) > 0.5
            row.append(best if near else None)
        ids.append(row)
    return ids


def crossing(time: float) -> list[np.ndarray]:
    """One face grows while the other shrinks, so that their order by size changes."""
    return [put(0, 160, 240, 80 + 40 * time), put(1, 480, 240, 200 - 40 * time)]


@pytest.mark.parametrize("every", [1, 10])
def test_faces_whose_sizes_cross_keep_their_ids(every: int) -> None:
    scene = Scene()
    ids = ids_of(play(scene, Tracker(scene, every), crossing, 90), crossing)  # type: ignore[arg-type]
    assert len({tuple(row) for row in ids}) == 1
    assert set(ids[0]) == {0, 1}
    assert scene.searched == list(range(0, 90, every))


def test_faces_that_pass_each_other_keep_their_ids() -> None:
    """The one behind is hidden for 0.5 s, and found again on the other side."""

    def passing(time: float) -> list[np.ndarray]:
        return [put(0, 120 + 200 * time, 200, 110), put(1, 520 - 200 * time, 240, 150)]

    def seen(time: float) -> list[np.ndarray]:
        both = passing(time)
        return both[1:] if abs(both[0].mean(0)[0] - both[1].mean(0)[0]) < 100 else both

    scene = Scene()
    tracker = Tracker(scene)  # type: ignore[arg-type]
    found = []
    for frame in range(60):
        scene.faces = seen(frame * STEP)
        found.append({face.id: face for face in tracker(BLANK, frame * STEP)})
    ids = ids_of(found, passing)  # type: ignore[arg-type]
    assert (ids[0], ids[-1]) == ([1, 0], [1, 0])
    assert tracker.count == 2


@pytest.mark.parametrize(("gap", "again"), [(0.5, True), (REMEMBERED + 0.2, False)])
def test_a_lost_face_is_remembered(gap: float, again: bool) -> None:
    def script(time: float) -> list[np.ndarray]:
        return [] if 1 <= time < 1 + gap else [put(0, 300 + 10 * time, 240, 150)]

    scene = Scene()
    found = play(scene, Tracker(scene), script, 90)  # type: ignore[arg-type]
    assert list(found[0]) == [0]
    assert list(found[-1]) == [0 if again else 1]
    if again:
        assert [len(faces) for faces in found] == [len(script(i * STEP)) for i in range(90)]
    # Searched every tenth frame, and in each while the face is missing and remembered.
    missing = {i for i in range(30, 90) if 1 <= i * STEP < 1 + min(gap, REMEMBERED)}
    assert missing <= set(scene.searched)
    assert set(scene.searched) - missing <= {*range(0, 90, 10), 30 + round(30 * gap)}


def test_between_searches_the_landmarks_lead() -> None:
    """A face that moves by its own width between two searches is followed, and one that the
    detector no longer finds, too.
    """

    def script(time: float) -> list[np.ndarray]:
        return [put(0, 100 + 250 * time, 240, 80)]

    scene = Scene()
    tracker = Tracker(scene)  # type: ignore[arg-type]
    found = play(scene, tracker, script, 10)
    scene.hidden = {0}
    found += play(scene, tracker, script, 40)
    assert [list(faces) for faces in found] == [[0]] * 50
    assert scene.searched == [0, 10, 20, 30, 40]


def test_a_new_face_is_found_at_the_next_search() -> None:
    def script(time: float) -> list[np.ndarray]:
        return [put(0, 150, 240, 120), *([put(1, 450, 240, 120)] if time > 0.5 else [])]

    scene = Scene()
    found = play(scene, Tracker(scene), script, 30)  # type: ignore[arg-type]
    assert [len(faces) for faces in found] == [1] * 20 + [2] * 10
    assert list(found[-1]) == [0, 1]


def test_a_face_is_kept_while_its_middle_is_in_the_picture() -> None:
    def script(time: float) -> list[np.ndarray]:
        return [put(0, 600 + 60 * time, 240, 80)]

    scene = Scene()
    found = play(scene, Tracker(scene), script, 60)  # type: ignore[arg-type]
    inside = [script(i * STEP)[0].mean(axis=0)[0] < 640 for i in range(60)]
    assert [len(faces) for faces in found] == [int(there) for there in inside]


def test_two_tracks_do_not_become_one_face() -> None:
    """One of two near faces vanishes, and its crop shows the other: that one keeps its id."""

    def script(time: float) -> list[np.ndarray]:
        near = [put(0, 300, 240, 120), put(1, 360, 240, 120)]
        return near if time < 0.3 else near[:1]

    scene = Scene()
    ids = ids_of(play(scene, Tracker(scene), script, 30), script)  # type: ignore[arg-type]
    assert len({row[0] for row in ids}) == 1
    assert len(ids[-1]) == 1


def test_a_crop_that_shrinks_is_put_right() -> None:
    """A network that answers too small a face would lose it; the detector's box restores it."""
    scene = Scene()
    real = scene._read

    def shrinking(box: np.ndarray, score: float) -> Face:
        face = real(box, score)
        middle = (box[:2] + box[2:]) / 2
        side = 0.93 * float((box[2:] - box[:2]).max())
        return replace(face, landmarks=put(0, *middle, side).astype("f4"))

    scene._read = shrinking  # type: ignore[method-assign]
    found = play(scene, Tracker(scene), lambda time: [put(0, 300, 240, 150)], 60)  # type: ignore[arg-type]
    assert [list(faces) for faces in found] == [[0]] * 60
    sides = [float(np.ptp(faces[0].landmarks, axis=0).max()) for faces in found]
    assert min(sides[40:]) > 50


def test_smoothing_can_be_left_out() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.8, (60, 68, 2))

    def script(time: float) -> list[np.ndarray]:
        return [put(0, 300, 240, 150) + noise[round(time / STEP)]]

    change = {}
    for smooth in (True, False):
        scene = Scene()
        found = play(scene, Tracker(scene, smooth=smooth), script, 60)  # type: ignore[arg-type]
        points = np.array([faces[0].landmarks for faces in found])
        change[smooth] = np.abs(np.diff(points, axis=0)).mean()
        boxes = np.array([faces[0].box for faces in found])
        assert boxes == pytest.approx(np.array([landmark_box(p) for p in points]))
        if not smooth:
            wanted = np.array([script(i * STEP)[0] for i in range(60)])
            assert points == pytest.approx(wanted, abs=1e-3)
    assert change[True] < 0.3 * change[False]


def test_wrong_uses() -> None:
    scene = Scene()
    with pytest.raises(ValueError, match="detect_every: expected at least 1, found 0"):
        Tracker(scene, 0)  # type: ignore[arg-type]
    tracker = Tracker(scene)  # type: ignore[arg-type]
    tracker(BLANK, 1.0)
    for time in (1.0, 0.5, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="time of a frame: expected more than 1, found"):
            tracker(BLANK, time)
    assert len(tracker(BLANK)) == 0  # 1/25 s later


def test_a_predictor_tracks() -> None:
    """With the bundled weights: a generated face that moves keeps its id and its landmarks."""
    faces = SyntheticFaces(1, seed=5, size=200, pose=10, occlusion=0.0)
    picture, truth = faces.image(0), faces.face(0).landmarks
    box = landmark_box(truth)

    def found(image: np.ndarray) -> np.ndarray:
        return box[None]

    predictor = Predictor(device="cpu", detector=found)
    frames = [np.roll(picture, 3 * i, axis=1)[..., ::-1] for i in range(4)]
    times = [0.0, 0.1, 0.3, 0.4]
    tracked = list(predictor.track(frames, times, color="bgr"))
    assert [[face.id for face in frame] for frame in tracked] == [[0]] * 4
    for i, frame in enumerate(tracked):
        apart = np.linalg.norm(frame[0].landmarks - truth - (3 * i, 0), axis=1).mean()
        assert apart < 0.05 * np.ptp(truth, axis=0).max()
    assert tracked[0][0].to_dict()["id"] == 0
    with pytest.raises(ValueError, match="shorter"):
        list(predictor.track(frames, times[:2]))
    assert len(list(predictor.track(frames[:2]))) == 2
