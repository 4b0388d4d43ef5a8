"""The scores of several methods on the same faces, whole sets and subsets alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ccdn.evaluation.metrics import Array, best_norm, nme, scores

MODEL = "model"
MEAN_SHAPE = "mean shape"

Scores = dict[str, "dict[str, float] | None"]


@dataclass(frozen=True)
class Reference:
    """Annotated faces to score on.

    truth: (N, L, 2) pixels; boxes: (N, 4) x0 y0 x1 y1, for the norm face_size; subsets: name ->
    indices (n,), every name that is to be scored, the whole set too; official: how many faces the
    benchmark's authors count in a subset.
    """

    names: Sequence[str]
    truth: Array
    boxes: Array
    subsets: Mapping[str, Array]
    official: Mapping[str, int] = field(default_factory=dict)

    def missing(self) -> dict[str, tuple[int, int]]:
        """Subsets that are not of their official size: name -> (found, official)."""
        return {
            name: (len(indices), self.official[name])
            for name, indices in self.subsets.items()
            if name in self.official and len(indices) != self.official[name]
        }


@dataclass(frozen=True)
class SplitResult:
    """The scores of every method on one subset.

    indices: (n,) its faces in the reference. scores: `metrics.scores` of each method; errors: NME
    of each face, (n,), of each method, by `norm`.
    """

    split: str
    indices: Array
    norm: str
    scores: Mapping[str, Scores]
    errors: Mapping[str, Array]

    @property
    def methods(self) -> list[str]:
        """The methods' names, in the order in which they were given."""
        return list(self.scores)


def score(reference: Reference, predicted: Mapping[str, Array]) -> list[SplitResult]:
    """Score methods on every subset that has faces. predicted: method -> (N, L, 2) pixels.

    Raises ValueError for landmarks that are not those of as many faces and points.
    """
    norm = best_norm(reference.truth.shape[1])
    for method, landmarks in predicted.items():
        if landmarks.shape != reference.truth.shape:
            raise ValueError(
                f"{method}: found landmarks {landmarks.shape}, expected {reference.truth.shape}"
            )
    results = []
    for split, indices in reference.subsets.items():
        if len(indices) == 0:
            continue
        truth, boxes = reference.truth[indices], reference.boxes[indices]
        results.append(
            SplitResult(
                split,
                np.asarray(indices),
                norm,
                {name: scores(given[indices], truth, boxes) for name, given in predicted.items()},
                {
                    name: nme(given[indices], truth, norm, boxes)
                    for name, given in predicted.items()
                },
            )
        )
    return results


def to_json(result: SplitResult, official: int | None = None) -> dict[str, Any]:
    """The scores of a split as plain values: model and mean_shape by these names, others by theirs.

    official: how many faces the benchmark counts, where it is known.
    """
    found = {
        name.replace(" ", "_"): result.scores[name]
        for name in (MODEL, MEAN_SHAPE)
        if name in result.scores
    }
    others = {
        name: value for name, value in result.scores.items() if name not in (MODEL, MEAN_SHAPE)
    }
    return {
        "faces": len(result.indices),
        "official_faces": official,
        "nme_norm_of_curves": result.norm,
        **found,
        **({"others": others} if others else {}),
    }
