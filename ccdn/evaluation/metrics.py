"""NME, failure rate, AUC and CED, exactly as they are defined; numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ccdn.data.layouts import layout_or_none

Array = np.ndarray[Any, np.dtype[Any]]

NORMS = ("inter-ocular", "inter-pupil", "face size")


def normaliser(truth: Array, norm: str, boxes: Array | None = None) -> Array | None:
    """What NME divides by, for each face: (N,) pixels; None where the layout has no such distance.

    truth: (N, L, 2) pixels. norm: one of NORMS. boxes: (N, 4) x0 y0 x1 y1, for "face size", sqrt(w
    h). Raises ValueError for an unknown norm, for "face size" without boxes, and for a face whose
    distance is 0.
    """
    truth = _faces("truth", truth)
    if norm == "face size":
        if boxes is None or np.shape(boxes) != (len(truth), 4):
            found = None if boxes is None else np.shape(boxes)
            raise ValueError(f"face size needs boxes ({len(truth)}, 4), found {found}")
        sides = np.asarray(boxes, np.float64)[:, 2:] - np.asarray(boxes, np.float64)[:, :2]
        if (sides <= 0).any():
            raise ValueError(f"box {int(np.argmax((sides <= 0).any(1)))} is empty or inverted")
        return np.sqrt(sides.prod(1))
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, found {norm!r}")
    ends = _eyes(truth.shape[1], norm)
    if ends is None:
        return None
    left, right = (truth[:, list(indices)].mean(1) for indices in ends)
    distances = np.linalg.norm(left - right, axis=1)
    if (distances == 0).any():
        raise ValueError(f"face {int(np.argmin(distances))}: its {norm} distance is 0")
    return distances


def nme(predicted: Array, truth: Array, norm: Array) -> Array:
    """The normalised mean error of each face, (N,), as a fraction: mean distance over points /
    norm.

    predicted, truth: (N, L, 2) pixels; norm: (N,). Raises ValueError for other shapes and for
    values that are not finite.
    """
    truth, predicted = _faces("truth", truth), _faces("predicted", predicted)
    if predicted.shape != truth.shape:
        raise ValueError(f"predicted is {predicted.shape}, truth is {truth.shape}")
    if np.shape(norm) != (len(truth),):
        raise ValueError(f"norm must be ({len(truth)},), found {np.shape(norm)}")
    return np.asarray(np.linalg.norm(predicted - truth, axis=2).mean(1) / norm)


def failure_rate(errors: Array, threshold: float = 0.10) -> float:
    """FR@threshold: the share of faces with NME > threshold."""
    return float(np.mean(_errors(errors) > threshold))


def auc(errors: Array, threshold: float) -> float:
    """The area under the CED from 0 to threshold, over threshold: mean(max(0, threshold - NME)) /
    threshold.
    """
    return float(np.mean(np.maximum(0.0, threshold - _errors(errors))) / threshold)


def ced(errors: Array, at: Array) -> Array:
    """The cumulative error distribution: the share of faces with NME <= each value of `at`."""
    ordered = np.sort(_errors(errors))
    return np.asarray(np.searchsorted(ordered, at, side="right") / len(ordered))


def scores(predicted: Array, truth: Array, boxes: Array) -> dict[str, dict[str, float] | None]:
    """Every norm's NME, FR@8, FR@10, AUC@8 and AUC@10 in %; None for a norm that the layout does
    not have.
    """
    result: dict[str, dict[str, float] | None] = {}
    for norm in NORMS:
        distances = normaliser(truth, norm, boxes)
        if distances is None:
            result[norm] = None
            continue
        errors = nme(predicted, truth, distances)
        result[norm] = {
            "nme": 100 * float(errors.mean()),
            "fr8": 100 * failure_rate(errors, 0.08),
            "fr10": 100 * failure_rate(errors, 0.10),
            "auc8": 100 * auc(errors, 0.08),
            "auc10": 100 * auc(errors, 0.10),
        }
    return result


def best_norm(points: int) -> str:
    """The first norm of NORMS that a layout has: inter-ocular, or face size where no eye corners
    are known.
    """
    return "face size" if _eyes(points, "inter-ocular") is None else "inter-ocular"


def _eyes(points: int, norm: str) -> tuple[Sequence[int], Sequence[int]] | None:
    known = layout_or_none(points)
    if known is None:
        return None
    if norm == "inter-pupil":
        return known.pupil
    return None if known.ocular is None else ((known.ocular[0],), (known.ocular[1],))


def _faces(name: str, landmarks: Array) -> Array:
    landmarks = np.asarray(landmarks, np.float64)
    if landmarks.ndim != 3 or landmarks.shape[2] != 2 or len(landmarks) == 0:
        raise ValueError(f"{name} must be (N, L, 2) with N > 0, found {landmarks.shape}")
    bad = ~np.isfinite(landmarks).all((1, 2))
    if bad.any():
        raise ValueError(f"{name}: face {int(np.argmax(bad))} has coordinates that are not finite")
    return landmarks


def _errors(errors: Array) -> Array:
    errors = np.asarray(errors, np.float64)
    if errors.ndim != 1 or len(errors) == 0:
        raise ValueError(f"errors must be (N,) with N > 0, found {errors.shape}")
    return errors
