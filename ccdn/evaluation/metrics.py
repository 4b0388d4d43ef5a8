"""NME, failure rate, AUC and CED, exactly as they are defined; numpy only.

Errors are fractions (0.03 is an NME of 3 %).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ccdn.data.layouts import layout_or_none

Array = np.ndarray[Any, np.dtype[Any]]

NORMS = ("inter_ocular", "inter_pupil", "face_size")


def nme(pred: Array, target: Array, norm: str = "inter_ocular", box: Array | None = None) -> Array:
    """The normalised mean error of each face, (n,) float64, as a fraction.

    That is the mean over points of the distance between prediction and target, over the distance
    that `norm` names. pred, target: (n, points, 2) pixels. norm: inter_ocular, inter_pupil or
    face_size. box: (n, 4) x0 y0 x1 y1, for face_size. Raises ValueError for other shapes, values
    that are not finite, a norm that the layout does not have, and a face whose distance is 0.
    """
    return mean_distance(pred, target) / normaliser(target, norm, box)


def failure_rate(errors: Array, threshold: float = 0.10) -> float:
    """FR@threshold: the share of faces with NME > threshold."""
    return float(np.mean(_errors(errors) > threshold))


def auc(errors: Array, threshold: float) -> float:
    """The area under the CED from 0 to threshold, over threshold: mean(max(0, threshold - NME)) /
    threshold.
    """
    return float(np.mean(np.maximum(0.0, threshold - _errors(errors))) / threshold)


def ced(errors: Array, thresholds: Array) -> Array:
    """The cumulative error distribution: the share of faces with NME <= each threshold."""
    ordered = np.sort(_errors(errors))
    return np.asarray(np.searchsorted(ordered, thresholds, side="right") / len(ordered))


def by_subset(errors: Array, subsets: Mapping[str, Array]) -> dict[str, Array]:
    """The errors (faces,) of each subset. subsets: name -> bool (n,) or indices.

    Raises ValueError for a subset without faces and a mask of another length.
    """
    errors = _errors(errors)
    found = {}
    for name, members in subsets.items():
        members = np.asarray(members)
        if members.dtype == bool and members.shape != errors.shape:
            raise ValueError(
                f"subset {name!r}: found a mask {members.shape}, expected {errors.shape}"
            )
        found[name] = errors[members]
        if len(found[name]) == 0:
            raise ValueError(f"subset {name!r} has no faces")
    return found


def mean_distance(pred: Array, target: Array) -> Array:
    """The mean over points of the distance, (n,) float64 pixels: NME before the division."""
    target, pred = _faces("target", target), _faces("pred", pred)
    if pred.shape != target.shape:
        raise ValueError(f"pred is {pred.shape}, target is {target.shape}")
    return np.asarray(np.linalg.norm(pred - target, axis=2).mean(1))


def normaliser(target: Array, norm: str, box: Array | None = None) -> Array:
    """What NME divides by, for each face: (n,) pixels. Arguments and errors as for `nme`."""
    target = _faces("target", target)
    points = target.shape[1]
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, found {norm!r}")
    if norm == "face_size":
        if box is None or np.shape(box) != (len(target), 4):
            found = None if box is None else np.shape(box)
            raise ValueError(f"face_size needs boxes ({len(target)}, 4), found {found}")
        sides = np.asarray(box, np.float64)[:, 2:] - np.asarray(box, np.float64)[:, :2]
        bad = ~(sides > 0).all(1)
        if bad.any():
            raise ValueError(f"box {int(np.argmax(bad))} is empty or inverted")
        return np.sqrt(sides.prod(1))
    ends = _eyes(points, norm)
    if ends is None:
        raise ValueError(
            f"{points} points have no {norm} distance, expected one of "
            f"{', '.join(norms_of(points))}"
        )
    left, right = (target[:, list(indices)].mean(1) for indices in ends)
    distances = np.linalg.norm(left - right, axis=1)
    if (distances == 0).any():
        raise ValueError(f"face {int(np.argmin(distances))}: its {norm} distance is 0")
    return distances


def norms_of(points: int) -> tuple[str, ...]:
    """The norms that a layout with this many points has; face_size always."""
    return tuple(norm for norm in NORMS if norm == "face_size" or _eyes(points, norm) is not None)


def best_norm(points: int) -> str:
    """The first of `norms_of`: inter_ocular, or face_size where no eye corners are known."""
    return norms_of(points)[0]


def scores(pred: Array, target: Array, box: Array) -> dict[str, dict[str, float] | None]:
    """Every norm's NME, FR@8, FR@10, AUC@8 and AUC@10 in %; None for a norm that the layout does
    not have.
    """
    result: dict[str, dict[str, float] | None] = dict.fromkeys(NORMS)
    for norm in norms_of(np.shape(target)[1]):
        errors = nme(pred, target, norm, box)
        result[norm] = {
            "nme": 100 * float(errors.mean()),
            "fr8": 100 * failure_rate(errors, 0.08),
            "fr10": 100 * failure_rate(errors, 0.10),
            "auc8": 100 * auc(errors, 0.08),
            "auc10": 100 * auc(errors, 0.10),
        }
    return result


def _eyes(points: int, norm: str) -> tuple[Sequence[int], Sequence[int]] | None:
    known = layout_or_none(points)
    if known is None:
        return None
    if norm == "inter_pupil":
        return known.pupil
    return None if known.ocular is None else ((known.ocular[0],), (known.ocular[1],))


def _faces(name: str, landmarks: Array) -> Array:
    landmarks = np.asarray(landmarks, np.float64)
    if landmarks.ndim != 3 or landmarks.shape[2] != 2 or len(landmarks) == 0:
        raise ValueError(f"{name} must be (n, points, 2) with n > 0, found {landmarks.shape}")
    bad = ~np.isfinite(landmarks).all((1, 2))
    if bad.any():
        raise ValueError(f"{name}: face {int(np.argmax(bad))} has coordinates that are not finite")
    return landmarks


def _errors(errors: Array) -> Array:
    errors = np.asarray(errors, np.float64)
    if errors.ndim != 1 or len(errors) == 0:
        raise ValueError(f"errors must be (n,) with n > 0, found {errors.shape}")
    return errors
