"""Predictions come back to the picture's pixels, mirrored or not; drawings show them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ccdn.config import load_config, resolve_data
from ccdn.data import layout
from ccdn.data.drawing import contact_sheet, draw_box, draw_landmarks, enlarge, write_picture
from ccdn.evaluation.figures import draw_ced, draw_exemplars, draw_face, draw_faces, exemplars
from ccdn.evaluation.run import reference_of
from ccdn.evaluation.scoring import MEAN_SHAPE, MODEL, Reference, score
from ccdn.evaluation.tables import as_text, score_table
from ccdn.inference.crops import predict_crops, predict_faces
from ccdn.models import Output
from ccdn.plan.faces import evaluation_crops, open_split


class Brightest(nn.Module):
    """Says that all points are at the brightest pixel of the crop."""

    def forward(self, images: Tensor) -> Output:
        size = images.shape[-1]
        place = images.sum(1).flatten(1).argmax(1)
        point = torch.stack([place % size, place // size], 1)
        return Output(((point + 0.5) / size)[:, None].repeat(1, 68, 1), ())


class Oracle(nn.Module):
    """Gives prescribed landmarks, in the order of the faces."""

    def __init__(self, landmarks: Tensor) -> None:
        super().__init__()
        self.landmarks, self.next = landmarks, 0

    def forward(self, images: Tensor) -> Output:
        first, self.next = self.next, self.next + len(images)
        return Output(self.landmarks[first : self.next], ())


def test_mirroring_finds_the_same_place() -> None:
    images = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    images[0, :, 5, 3] = 255
    plain = predict_crops(Brightest(), images)
    np.testing.assert_allclose(plain[0, 0], [3.5 / 16, 5.5 / 16], rtol=1e-6)
    found = predict_crops(Brightest(), images, layout(68).flip)
    np.testing.assert_allclose(found, plain, rtol=1e-6)


def test_mirroring_gives_every_point_to_its_partner() -> None:
    x = torch.rand(1, 68, 2)

    class Mirrored(nn.Module):
        """Right on the picture; on the mirrored one (the second call), right up to the order."""

        calls = 0

        def forward(self, images: Tensor) -> Output:
            self.calls += 1
            if self.calls == 1:
                return Output(x, ())
            flip = list(layout(68).flip or ())
            return Output(torch.stack([1 - x[:, flip, 0], x[:, flip, 1]], -1), ())

    images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    found = predict_crops(Mirrored(), images, layout(68).flip)
    np.testing.assert_allclose(found, x, atol=1e-6)


@pytest.fixture
def opened(face_folder: Path, small: list[str]):  # type: ignore[no-untyped-def]
    config = load_config("tiny", [*small, f"data.root={face_folder}"])
    config.data = resolve_data(config.data)
    faces = open_split(config.data, "test", 68)
    return faces, evaluation_crops(faces, config)


def test_an_oracle_has_no_error_in_the_picture(opened, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    faces, crops = opened
    truth = torch.stack([crops[i]["landmarks"] for i in range(len(crops))])
    found = predict_faces(Oracle(truth), crops, truth.mean(0).numpy(), batch_size=6)
    in_pixels = np.stack([faces.face(i).landmarks for i in range(len(faces))])
    assert np.abs(found.truth - in_pixels).max() < 1e-3
    assert np.abs(found.predicted - in_pixels).max() < 1e-3
    reference = reference_of(faces, "folder", "test", ["test"], None)
    (result,) = score(reference, {MODEL: found.predicted, MEAN_SHAPE: found.mean_shape})
    assert result.errors[MODEL].max() < 1e-5
    assert result.errors[MEAN_SHAPE].mean() > 0.05
    lines = as_text(score_table([result])).splitlines()
    assert lines[3].split()[:6] == ["test", "20", "model", "0.00", "0.00", "0.00"]
    assert lines[4].split()[:4] == ["test", "20", "mean", "shape"]
    draw_ced([result], tmp_path / "ced.png")
    draw_faces(result.errors[MEAN_SHAPE], found, crops, tmp_path / "faces.png")
    draw_exemplars(
        [result], MEAN_SHAPE, lambda i: draw_face(found, crops, i), tmp_path / "exemplars.png"
    )
    names = ("ced.png", "faces.png", "exemplars.png")
    assert all((tmp_path / name).stat().st_size > 1000 for name in names)


def test_exemplars_are_the_best_the_median_and_the_worst() -> None:
    errors = np.array([5.0, 1.0, 9.0, 3.0, 7.0, 2.0, 8.0, 4.0, 6.0])
    found = exemplars(errors, 1)
    assert found == {"best": [1], "median": [0], "worst": [2]}
    assert exemplars(errors, 9)["worst"] == [4, 6, 2]
    assert exemplars(errors[:2]) == {"best": [1], "median": [1], "worst": [0]}


def test_a_layout_without_eyes_is_measured_by_its_box_and_says_so() -> None:
    truth = np.random.default_rng(0).uniform(0, 50, (4, 19, 2))
    boxes = np.tile([0, 0, 50, 50], (4, 1))
    reference = Reference(list("abcd"), truth, boxes, {"test": np.arange(4)})
    text = as_text(score_table(score(reference, {MODEL: truth + 1})))
    assert "FR@10 face size" in text
    assert text.splitlines()[3].split()[3:6] == ["-", "-", "2.83"]


def test_landmarks_are_drawn_where_they_are() -> None:
    image = np.zeros((60, 80, 3), np.uint8)
    drawn = draw_landmarks(image, np.array([[20.0, 10.0], [70.0, 50.0]]), color=(0, 255, 0), size=1)
    assert image.max() == 0
    ys, xs = np.nonzero(drawn[:, :, 1])
    assert set(zip(xs.tolist(), ys.tolist(), strict=True)) >= {(20, 10), (70, 50)}
    near = np.minimum(np.hypot(xs - 20, ys - 10), np.hypot(xs - 70, ys - 50))
    assert near.max() < 3
    assert drawn[:, :, [0, 2]].max() == 0


def test_a_point_outside_the_picture_is_no_error() -> None:
    image = np.zeros((20, 20, 3), np.uint8)
    drawn = draw_landmarks(image, np.full((68, 2), -1e9), layout(68))
    assert drawn.shape == image.shape
    assert draw_box(image, np.array([2, 2, 30, 30])).max() > 0


def test_a_crop_grows_with_its_landmarks() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[2, 5] = 255
    larger, points = enlarge(image, np.array([[5.0, 2.0]]), 32)
    y, x = np.unravel_index(int(larger.sum(2).argmax()), larger.shape[:2])
    assert abs(x - points[0, 0]) <= 1
    assert abs(y - points[0, 1]) <= 1


def test_a_sheet_holds_every_picture(tmp_path: Path) -> None:
    tiles = [np.full((10, 12, 3), 50 + 40 * i, np.uint8) for i in range(5)]
    sheet = contact_sheet(tiles, 3, gap=2)
    assert sheet.shape == (2 * 12 + 2, 3 * 14 + 2, 3)
    assert {int(v) for v in np.unique(sheet)} == {24, 50, 90, 130, 170, 210}
    with pytest.raises(ValueError, match="expected pictures"):
        contact_sheet([], 3)
    with pytest.raises(OSError, match="cannot write"):
        write_picture(tmp_path / "a.nothing", sheet)


def test_bad_drawing_arguments() -> None:
    with pytest.raises(ValueError, match="image must be uint8"):
        draw_landmarks(np.zeros((4, 4, 3)), np.zeros((1, 2)))
    with pytest.raises(ValueError, match="5 landmarks for a layout of 68"):
        draw_landmarks(np.zeros((4, 4, 3), np.uint8), np.zeros((5, 2)), layout(68))
