"""Metrics: their definitions on cases counted by hand, and a published method's scores."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from ccdn.evaluation.metrics import (
    auc,
    best_norm,
    by_subset,
    ced,
    failure_rate,
    nme,
    normaliser,
    norms_of,
    scores,
)

pytestmark = pytest.mark.check


def faces(count: int = 3, points: int = 68) -> np.ndarray:
    return np.random.default_rng(points).uniform(0, 100, (count, points, 2))


def test_normalisers_of_each_layout() -> None:
    truth = faces()
    ocular = np.linalg.norm(truth[:, 36] - truth[:, 45], axis=1)
    pupil = np.linalg.norm(truth[:, 36:42].mean(1) - truth[:, 42:48].mean(1), axis=1)
    assert np.allclose(normaliser(truth, "inter_ocular"), ocular)
    assert np.allclose(normaliser(truth, "inter_pupil"), pupil)
    wflw = faces(points=98)
    assert np.allclose(
        normaliser(wflw, "inter_ocular"), np.linalg.norm(wflw[:, 60] - wflw[:, 72], axis=1)
    )
    cofw = faces(points=29)
    assert np.allclose(
        normaliser(cofw, "inter_pupil"), np.linalg.norm(cofw[:, 16] - cofw[:, 17], axis=1)
    )
    boxes = np.array([[0, 0, 4, 9], [1, 5, 3, 7], [0, 0, 1, 1]])
    assert np.allclose(normaliser(truth, "face_size", boxes), [6, 2, 1])
    assert [best_norm(n) for n in (68, 98, 29)] == ["inter_ocular"] * 3
    found = scores(truth + 1, truth, boxes)
    for norm, size in (("inter_ocular", ocular), ("inter_pupil", pupil), ("face_size", [6, 2, 1])):
        assert found[norm]["nme"] == pytest.approx(100 * np.mean(np.sqrt(2) / size))  # type: ignore


@pytest.mark.parametrize("points", [19, 5])
def test_a_norm_that_a_layout_lacks_is_not_swapped_for_another(points: int) -> None:
    truth = faces(points=points)
    for norm in ("inter_ocular", "inter_pupil"):
        message = f"{points} points have no {norm} distance, expected one of face_size"
        with pytest.raises(ValueError, match=message):
            nme(truth, truth, norm)
    assert norms_of(points) == ("face_size",)
    assert best_norm(points) == "face_size"
    found = scores(truth + 1, truth, np.tile([0, 0, 10, 10], (3, 1)))
    assert found["inter_ocular"] is None
    assert found["face_size"] is not None
    assert found["face_size"]["nme"] == pytest.approx(100 * np.sqrt(2) / 10)


def test_nme_is_the_mean_distance_over_the_norm() -> None:
    truth = np.zeros((2, 2, 2))
    predicted = np.array([[[3, 4], [0, 0]], [[0, 1], [0, 1]]], float)
    boxes = np.array([[0, 0, 10, 10], [1, 1, 3, 9]])
    assert nme(predicted, truth, "face_size", boxes).tolist() == [0.25, 0.25]


def test_errors_of_subsets() -> None:
    errors = np.array([0.1, 0.2, 0.3])
    found = by_subset(errors, {"pose": np.array([True, False, True]), "blur": np.array([1])})
    assert {name: list(part) for name, part in found.items()} == {"pose": [0.1, 0.3], "blur": [0.2]}
    with pytest.raises(ValueError, match="subset 'pose' has no faces"):
        by_subset(errors, {"pose": np.zeros(3, bool)})
    with pytest.raises(ValueError, match=r"subset 'pose': found a mask \(2,\), expected \(3,\)"):
        by_subset(errors, {"pose": np.ones(2, bool)})
    with pytest.raises(ValueError, match=r"found a mask \(4,\), expected \(3,\)"):
        by_subset(errors, {"pose": np.ones(4, bool)})


def test_rates_on_counted_faces() -> None:
    errors = np.array([0.02, 0.05, 0.10, 0.20])
    assert failure_rate(errors) == 0.25  # 0.10 itself is not a failure
    assert failure_rate(errors, 0.04) == 0.75
    assert auc(errors, 0.10) == pytest.approx((0.8 + 0.5 + 0 + 0) / 4)
    assert ced(errors, np.array([0.0, 0.02, 0.06, 1.0])).tolist() == [0, 0.25, 0.5, 1]


def test_scores_are_percentages() -> None:
    truth = np.zeros((4, 5, 2))
    predicted = truth + np.array([[2, 0], [0, 5], [9, 0], [0, 20]])[:, None]
    found = scores(predicted, truth, np.tile([0, 0, 100, 100], (4, 1)))["face_size"]
    assert found == pytest.approx(
        {
            "nme": 9,
            "fr8": 50,
            "fr10": 25,
            "auc8": 100 * (0.75 + 0.375) / 4,
            "auc10": 100 * (0.8 + 0.5 + 0.1) / 4,
        }
    )


def test_auc_is_the_integral_of_the_ced() -> None:
    errors = np.random.default_rng(0).gamma(2.0, 0.02, 500)
    at = np.linspace(0, 0.08, 200_001)
    assert auc(errors, 0.08) == pytest.approx(ced(errors, at).mean(), abs=1e-5)


@pytest.mark.parametrize(
    "shape", [(68, 2), (3, 68), (0, 68, 2), (3, 68, 1), (3, 68, 3), (1, 3, 2, 2)]
)
def test_landmarks_of_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"target must be \(n, points, 2\) with n > 0, found"):
        normaliser(np.ones(shape), "inter_ocular")
    with pytest.raises(ValueError, match=r"pred must be \(n, points, 2\) with n > 0, found"):
        nme(np.ones(shape), faces())


@pytest.mark.parametrize("shape", [(), (0,), (2, 2)])
def test_errors_of_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"errors must be \(n,\) with n > 0, found"):
        failure_rate(np.ones(shape))


@pytest.mark.parametrize("shape", [(2, 4), (4, 4), (3, 3), (3, 5), (4,)])
def test_boxes_of_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    message = rf"face_size needs boxes \(3, 4\), found {re.escape(str(shape))}"
    with pytest.raises(ValueError, match=message):
        normaliser(faces(), "face_size", np.ones(shape))


@pytest.mark.parametrize("box", [[0, 0, 0, 1], [0, 0, 1, 0], [2, 0, 1, 1], [0, 2, 1, 1]])
def test_boxes_without_an_area_are_refused(box: list[int]) -> None:
    with pytest.raises(ValueError, match="box 1 is empty"):
        normaliser(faces(), "face_size", np.array([[0, 0, 1, 1], box, [0, 0, 1, 1]]))


def test_bad_input_is_refused() -> None:
    truth = faces()
    with pytest.raises(ValueError, match="norm must be one of inter_ocular"):
        normaliser(truth, "iod")
    with pytest.raises(ValueError, match=r"face_size needs boxes \(3, 4\), found None"):
        normaliser(truth, "face_size")
    bad = truth.copy()
    bad[1, 3, 0] = np.nan
    with pytest.raises(ValueError, match="pred: face 1 has coordinates that are not finite"):
        nme(bad, truth)
    for other in (truth[:, :5], truth[:2], faces(4), faces(3, 98)):
        with pytest.raises(ValueError, match=r"pred is \(\d, \d+, 2\), target is \(3, 68, 2\)"):
            nme(other, truth)
    truth[1:] = 0
    with pytest.raises(ValueError, match=r"face 1: its inter_ocular distance is 0"):
        normaliser(truth, "inter_ocular")


# From the README next to the file: set -> NME ocular, NME pupil and, if given, FR@10 of both,
# AUC@8, AUC@10, FR@8 (ocular). AUC to 0.02: the literature integrates a histogram.
GOLDEN_300W = {
    "helen": {"ocular": 2.519, "pupil": 3.503},
    "lfpw": {"ocular": 2.687, "pupil": 3.711},
    "common": {"ocular": 2.587, "pupil": 3.587, "fr": (0, 0), "auc8": 67.66},
    "ibug": {"ocular": 4.662, "pupil": 6.733, "fr": (1.48, 8.15), "auc8": 42.44, "fr8": 3.70},
    "full": {
        "ocular": 2.994,
        "pupil": 4.203,
        "fr": (0.29, 1.60),
        "auc8": 62.72,
        "auc10": 70.09,
        "fr8": 0.73,
    },
}


def check_golden(npz: Path, subset: str | None, expected: dict) -> None:  # type: ignore[type-arg]
    with np.load(npz) as golden:
        chosen = slice(None) if subset is None else golden[f"subset_{subset}"]
        truth, predicted, box = (golden[key][chosen] for key in ("gt", "pred", "bbox"))
    boxes = np.concatenate([box[:, :2], box[:, :2] + box[:, 2:]], axis=1)
    found = scores(predicted, truth, boxes)
    ocular, pupil = found["inter_ocular"], found["inter_pupil"]
    assert ocular is not None
    assert pupil is not None
    assert ocular["nme"] == pytest.approx(expected["ocular"], abs=1e-3)
    assert pupil["nme"] == pytest.approx(expected["pupil"], abs=1e-3)
    if "fr" in expected:
        assert (ocular["fr10"], pupil["fr10"]) == pytest.approx(expected["fr"], abs=0.01)
    for key in ("auc8", "auc10"):
        if key in expected:
            assert ocular[key] == pytest.approx(expected[key], abs=0.02)
    if "fr8" in expected:
        assert ocular["fr8"] == pytest.approx(expected["fr8"], abs=0.01)


@pytest.mark.parametrize("subset", list(GOLDEN_300W))
def test_a_published_method_s_scores_on_300w(subset: str, shared: Path) -> None:
    chosen = None if subset == "full" else subset
    check_golden(shared / "golden/spiga_300w_public.npz", chosen, GOLDEN_300W[subset])


def test_a_published_method_s_scores_on_cofw68(shared: Path) -> None:
    expected = {"ocular": 3.935, "pupil": 5.509, "fr": (0.79, 2.96)}
    check_golden(shared / "golden/spiga_cofw68.npz", None, expected)
