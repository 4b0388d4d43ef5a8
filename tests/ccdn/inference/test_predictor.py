"""`ccdn.Predictor` with the bundled weights: tilted faces, scores, ghosts, several pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import ccdn
from ccdn.checkpoint.state import Checkpoint
from ccdn.config import load_config
from ccdn.data import crop_image, landmark_box, layout
from ccdn.data.detection import Detections
from ccdn.evaluation.metrics import nme
from ccdn.inference.alignment import box_along, eye_roll, turned
from ccdn.inference.network import Seen, Traits, mirrored_back
from ccdn.inference.reading import Place, Reader
from ccdn.inference.scores import MIRROR
from ccdn.inference.torch_network import TorchNetwork
from ccdn.models import build_model
from ccdn.synthetic_faces import SyntheticFaces

SIDE = 200


@pytest.fixture(scope="module")
def faces() -> SyntheticFaces:
    return SyntheticFaces(8, seed=21, size=SIDE, pose=(15.0, 10.0, 0.0), occlusion=0)


def tilt(image: np.ndarray, landmarks: np.ndarray, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """A picture turned clockwise about its middle, and its landmarks."""
    angle = np.radians(degrees)
    linear = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.column_stack([linear, (SIDE - 1) / 2 * (1 - linear.sum(1))])
    return crop_image(image, matrix, SIDE, 90), landmarks @ linear.T + matrix[:, 2]


@pytest.mark.parametrize("degrees", [0, 40, 90, 180, 250])
def test_a_tilted_face_is_read_level(faces: SyntheticFaces, degrees: float) -> None:
    """With the error that it has upright, wherever the detector says nothing of the tilt but the
    nearest quarter turn, as one that searches turned pictures does.
    """
    quarter = 90.0 * round(degrees / 90)
    predictor = ccdn.Predictor(device="cpu")
    errors, rolls = [], []
    for index in range(len(faces)):
        image, truth = tilt(faces.image(index), faces.face(index).landmarks, degrees)
        found = Detections(landmark_box(truth)[None], np.ones(1), None, np.array([quarter]))
        ((face,),) = predictor.landmarks([image], [found])
        np.testing.assert_array_equal(face.box, landmark_box(truth))
        errors += [*nme(face.landmarks[None], truth[None])]
        rolls.append(eye_roll(face.landmarks, predictor.layout) - eye_roll(truth, predictor.layout))
    assert max(errors) < 0.15
    assert np.abs([turned(roll) for roll in rolls]).max() < 12


def test_a_face_upside_down_is_noticed(faces: SyntheticFaces) -> None:
    """Where the detector took it for an upright one."""
    predictor = ccdn.Predictor(device="cpu")
    image, truth = tilt(faces.image(0), faces.face(0).landmarks, 180)
    found = Detections(landmark_box(truth)[None], np.ones(1))
    ((face,),) = predictor.landmarks([image], [found])
    assert abs(turned(face.roll - 180)) < 25
    assert nme(face.landmarks[None], truth[None])[0] < 0.1


def test_landmarks_tell_faces_from_background(faces: SyntheticFaces) -> None:
    predictor = ccdn.Predictor(device="cpu")
    real = [
        predictor(faces.image(i), landmark_box(faces.face(i).landmarks))[0].score
        for i in range(len(faces))
    ]
    noise = np.random.default_rng(0).integers(0, 256, (10, 10, 3), np.uint8)
    image = cv2.resize(noise, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    boxes = [[x, y, x + 90, y + 90] for x in (0, 50, 100) for y in (0, 50, 100)]
    ghosts = predictor(image, boxes).scores
    assert min(real) > 0.8
    assert max(ghosts) < 0.5


def test_ghosts_are_left_out(faces: SyntheticFaces) -> None:
    box = landmark_box(faces.face(0).landmarks)

    def find(image: np.ndarray) -> tuple[list[np.ndarray], list[float]]:
        return [box, np.array([0.0, 0, 30, 30])], [0.9, 0.7]

    image = faces.image(0)
    image[:31, :31] = 128
    (face,) = ccdn.Predictor(device="cpu", detector=find)(image)
    np.testing.assert_array_equal(face.box, box)
    assert face.detection_score == 0.9
    assert face.landmark_score is not None
    assert face.landmark_score > 0.8
    both = ccdn.Predictor(device="cpu", detector=find, min_score=0)(image)
    assert len(both) == 2
    assert both[1].score < 0.5
    with pytest.raises(ValueError, match="min_score: expected 0 to 1, found 2"):
        ccdn.Predictor(min_score=2)


@pytest.mark.parametrize(
    ("box", "score", "message"),
    [
        ([np.nan, 0, 9, 9], 1, r"box \[nan, 0.0, 9.0, 9.0\]"),
        ([0, 0, np.inf, 9], 1, "expected x0 < x1 and y0 < y1"),
        ([9, 9, 5, 5], 1, r"box \[9.0, 9.0, 5.0, 5.0\]"),
        ([-1e9, -1e9, 1e9, 1e9], 1, "at most 5 times as large as the picture of 30 x 20 pixels"),
        ([0, 0, 9, 9], 95, "score 95, expected 0 to 1"),
        ([0, 0, 9, 9], np.nan, "score nan, expected 0 to 1"),
    ],
)
def test_what_a_function_gives_is_checked(box: list[float], score: float, message: str) -> None:
    def mine(picture: np.ndarray) -> Any:
        return [box], [score]

    predictor = ccdn.Predictor(device="cpu", detector=mine)
    with pytest.raises(ValueError, match=f"^detector mine: found the .*{message}"):
        predictor(np.zeros((20, 30, 3), np.uint8))


def test_a_detector_has_a_result_for_each_picture() -> None:
    class Short:
        name = "short"

        def detect(self, images: Sequence[np.ndarray]) -> list[Detections]:
            return []

    predictor = ccdn.Predictor(device="cpu", detector=Short())
    with pytest.raises(ValueError, match="short: found results for 0 pictures, expected 1"):
        predictor(np.zeros((20, 30, 3), np.uint8))


def test_all_forms_of_a_picture_give_the_same_faces(faces: SyntheticFaces, tmp_path: Path) -> None:
    image = faces.image(1)
    box = landmark_box(faces.face(1).landmarks)
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), image[:, :, ::-1])
    predictor = ccdn.Predictor(device="cpu", detector=lambda picture: [box])
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    forms = [image, str(path), path, Image.fromarray(image), tensor, tensor / 255, image / 255]
    results = [*predictor(forms), predictor(image[:, :, ::-1], color="bgr")]
    assert len(results) == len(forms) + 1
    for result in results:
        np.testing.assert_allclose(result.landmarks, results[0].landmarks, atol=1e-3)
    # Boxes for each of several pictures: one or more of each.
    one, two = predictor([image, image], [box, [box, box + 3]])
    assert (len(one), len(two)) == (1, 2)
    with pytest.raises(ValueError, match="found boxes for 1 pictures, expected 2"):
        predictor([image, image], [box])


def test_mirrored_pictures_are_averaged_on_request(faces: SyntheticFaces) -> None:
    image, box = faces.image(2), landmark_box(faces.face(2).landmarks)
    plain = ccdn.Predictor(device="cpu")(image, box)[0]
    both = ccdn.Predictor(device="cpu", flip_test=True)(image, box)[0]
    apart = np.abs(plain.landmarks - both.landmarks).max()
    assert 1e-3 < apart < 10
    assert both.landmark_score == pytest.approx(plain.landmark_score)


def test_a_learned_spread_is_the_score_of_points(faces: SyntheticFaces, small: list[str]) -> None:
    """In pixels of the picture, and without a look at the mirrored crop."""
    extra = ["model.spread=true", "train.loss.kind=laplace"]
    config = load_config("tiny", [*small, *extra])
    torch.manual_seed(0)
    model = build_model(config.model).eval()
    landmarks = torch.from_numpy(faces.face(0).landmarks)
    layout = ccdn.Predictor(device="cpu").layout
    model.set_mean_shape((landmarks - 50) / 100)
    looks = []
    model.register_forward_hook(lambda *_: looks.append(1))
    size = config.model.input_size
    network = TorchNetwork(model, Checkpoint(config, model.state_dict(), torch.zeros(68, 2)))
    reader = Reader(network, layout, 4, False)
    (face,) = reader.read([Place(faces.image(0), np.array([50.0, 50, 150, 150]))])
    assert face.spread is not None
    assert face.spread.shape == (68,)
    with torch.no_grad():
        unit = model(torch.rand(1, 3, size, size)).spread
    np.testing.assert_allclose(face.spread, unit[0].numpy() * 125, rtol=1e-3)
    assert face.landmark_score is not None
    assert len(looks) <= 3
    assert "spread" in face.to_dict()


@pytest.mark.parametrize("up", [0.0, 0.1])
def test_landmarks_on_one_point_or_line(up: float) -> None:
    """As an untrained network gives them: a face that is turned is not cropped again."""

    class Collapsed:
        traits = Traits(68, 64, 0.25, False, MIRROR, np.zeros((68, 2)))

        def see(self, crops: np.ndarray, flip: Sequence[int] | None = None) -> Seen:
            landmarks = np.full((len(crops), 68, 2), 0.5, np.float32)
            landmarks[..., 1] += up * np.linspace(-1, 1, 68)
            return Seen(landmarks, mirrored_back(landmarks, flip or range(68)))

    reader = Reader(Collapsed(), layout(68), 4, False)
    place = Place(np.zeros((90, 90, 3), np.uint8), np.array([20.0, 20, 70, 70]), 90.0, 0.9)
    (face,) = reader.read([place])
    assert np.isfinite(face.landmarks).all()
    np.testing.assert_array_equal(face.box, place.box)


def test_alignment_by_hand() -> None:
    layout = ccdn.data.generic_layout(68)
    landmarks = np.zeros((68, 2))
    landmarks[36:42], landmarks[42:48] = (10, 10), (10, 30)
    assert eye_roll(landmarks, layout) == pytest.approx(90)
    assert eye_roll(np.zeros((5, 2)), ccdn.data.generic_layout(5)) == 0
    assert [turned(angle) for angle in (190.0, -190.0, 360.0, 180.0)] == [-170, 170, 0, -180]
    # A face turned clockwise by 90 degrees: its width lies along y.
    points = np.array([[0, 0], [40, 20.0]])
    np.testing.assert_allclose(box_along(points, 90), [10, -10, 30, 30], atol=1e-9)
