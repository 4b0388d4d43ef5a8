"""Scores of methods on whole sets and subsets, and the benchmarks' protocols."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from ccdn.data import BENCHMARKS, Benchmark, Face, ImageFaces
from ccdn.evaluation.metrics import nme, scores
from ccdn.evaluation.protocols import PROTOCOLS, protocol_of, protocols
from ccdn.evaluation.scoring import MEAN_SHAPE, MODEL, Reference, score, to_json

SUBSETS = {"none": np.array([], np.int64), "all": np.arange(5), "odd": np.array([1, 3])}


@pytest.fixture
def reference() -> Reference:
    truth = np.random.default_rng(0).uniform(0, 100, (5, 68, 2))
    boxes = np.tile([0.0, 0, 100, 100], (5, 1))
    return Reference(list("abcde"), truth, boxes, SUBSETS, {"none": 4, "all": 3, "odd": 2, "x": 1})


def test_subsets_of_another_than_the_official_size(reference: Reference) -> None:
    assert reference.missing() == {"none": (0, 4), "all": (5, 3)}
    assert dataclasses.replace(reference, official={}).missing() == {}


def test_every_method_on_every_subset_that_has_faces(reference: Reference) -> None:
    truth = reference.truth
    predicted = {MODEL: truth + 1, "ours": truth - 2, MEAN_SHAPE: truth + 9}
    found = score(reference, predicted)
    assert [result.split for result in found] == ["all", "odd"]
    for result in found:
        indices = SUBSETS[result.split]
        assert result.indices.tolist() == indices.tolist()
        assert result.norm == "inter_ocular"
        assert result.methods == list(predicted)
        for method, landmarks in predicted.items():
            chosen = landmarks[indices], truth[indices]
            assert result.scores[method] == scores(*chosen, reference.boxes[indices])
            assert result.errors[method].tolist() == nme(*chosen).tolist()


@pytest.mark.parametrize("shape", [(4, 68, 2), (6, 68, 2), (5, 67, 2), (5, 69, 2)])
def test_landmarks_of_other_faces_are_refused(reference: Reference, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"ours: found landmarks .*expected \(5, 68, 2\)"):
        score(reference, {MODEL: reference.truth, "ours": np.zeros(shape)})


def test_scores_as_plain_values(reference: Reference) -> None:
    truth = reference.truth
    _, odd = score(reference, {MODEL: truth, "ours": truth + 1, MEAN_SHAPE: truth + 2})
    own = {"model": odd.scores[MODEL], "mean_shape": odd.scores[MEAN_SHAPE]}
    about = {"faces": 2, "official_faces": 7, "nme_norm_of_curves": "inter_ocular"}
    assert to_json(odd, 7) == {**about, **own, "others": {"ours": odd.scores["ours"]}}
    alone = to_json(score(reference, {MODEL: truth})[1])
    assert alone == {**about, "official_faces": None, "model": odd.scores[MODEL]}


def test_results_cannot_be_changed(reference: Reference) -> None:
    (result, _) = score(reference, {MODEL: reference.truth})
    for found, name in ((reference, "truth"), (result, "norm"), (PROTOCOLS["300w"], "points")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(found, name, None)


def test_the_protocols_of_the_paper() -> None:
    assert {name: (p.kind, p.points, p.table) for name, p in PROTOCOLS.items()} == {
        "300w": ("300w", 68, "table2"),
        "cofw29": ("cofw", 29, "table3"),
        "cofw68": ("cofw68", 68, "table3"),
        "aflw": ("aflw", 19, "table4"),
        "wflw": ("wflw", 98, "table5"),
    }
    assert PROTOCOLS["300w"].sizes["full"] == 554 + 135
    for protocol in PROTOCOLS.values():
        assert protocol_of(protocol.kind) is protocol
    assert protocol_of("folder") is None
    assert protocols([Benchmark("own", read=None, points=5)]) == {}  # the paper has no table


def test_the_faces_of_a_split_in_the_one_that_holds_it() -> None:
    groups = ("ibug", "helen/testset", "lfpw/testset", "ibug")
    found = ImageFaces(
        "made",
        [
            Face(
                str(i),
                np.zeros((68, 2), np.float32),
                None,
                group,
                Path("a.png"),
                None,
                {"blur": i > 1},
            )
            for i, group in enumerate(groups)
        ],
    )
    expected = {"full": [0, 1, 2, 3], "common": [1, 2], "challenging": [0, 3], "lfpw": [2]}
    assert {
        split: BENCHMARKS["300w"].members(found, "full", split).tolist() for split in expected
    } == expected
    assert BENCHMARKS["wflw"].members(found, "test", "test").tolist() == [0, 1, 2, 3]
    assert BENCHMARKS["wflw"].members(found, "test", "blur").tolist() == [2, 3]
