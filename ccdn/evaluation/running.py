"""The metrics of `ccdn.evaluation.metrics` as torchmetrics metrics: gathered batch by batch, and
over several processes exactly.

The failure rate or AUC of a whole set is not the mean over its parts, and samplers repeat faces to
give every process equally many. So each metric keeps one error per face, with the face's index, and
computes the result from all of them at the end, counting each face once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from ccdn.evaluation import metrics


class FaceErrors(Metric):
    """Errors of single faces; `compute` gives them all, (faces,) float64, in order of their index.

    norm: see `ccdn.evaluation.metrics.nme`. subsets: names of parts of the set; `compute` then
    gives a dictionary with "all" and each of them.

    `update(pred, target, index, box, members)`: pred, target (n, points, 2) pixels; index (n,)
    whole numbers that name the faces, by which a face that comes twice is counted once; box (n, 4)
    x0 y0 x1 y1 for face_size; members: for each subset whether a face belongs to it, bool (n,).
    Raises ValueError as `nme` does, and for members that are not those of `subsets`.
    """

    full_state_update = False
    is_differentiable = False
    distance: list[Tensor]
    normaliser: list[Tensor]
    index: list[Tensor]
    members: list[Tensor]

    def __init__(
        self, norm: str = "inter_ocular", subsets: Sequence[str] = (), **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        if norm not in metrics.NORMS:
            raise ValueError(f"norm must be one of {', '.join(metrics.NORMS)}, found {norm!r}")
        if "all" in subsets or len(set(subsets)) != len(subsets):
            raise ValueError(f"subsets must differ and not be named 'all', found {list(subsets)}")
        self.norm = norm
        self.subsets = tuple(subsets)
        # Distance and normaliser apart: collections join metrics whose states look alike, and two
        # norms do wherever a prediction is perfect.
        for state in ("distance", "normaliser", "index", "members"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(
        self,
        pred: Tensor,
        target: Tensor,
        index: Tensor,
        box: Tensor | None = None,
        members: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Add a batch of faces; the arguments are the class's."""
        truth = _array(target)
        count = len(truth)
        faces = torch.as_tensor(index).reshape(-1).to(torch.int64)
        if len(faces) != count:
            raise ValueError(f"found {len(faces)} indices for {count} faces")
        distance = metrics.mean_distance(_array(pred), truth)
        size = metrics.normaliser(truth, self.norm, None if box is None else _array(box))
        given = dict(members or {})
        missing = sorted(set(self.subsets) - set(given))
        if missing:
            raise ValueError(f"no members given of the subset {missing[0]!r}")
        belongs = np.zeros((count, len(self.subsets)), bool)
        for column, name in enumerate(self.subsets):
            mask = _array(torch.as_tensor(given[name]))
            if mask.shape != (count,):
                raise ValueError(f"subset {name!r}: found {mask.shape}, expected ({count},)")
            belongs[:, column] = mask
        self.distance.append(torch.from_numpy(distance).to(self.device))
        self.normaliser.append(torch.from_numpy(size).to(self.device))
        self.index.append(faces.to(self.device))
        self.members.append(torch.from_numpy(belongs).to(self.device))

    def errors(self) -> dict[str, np.ndarray]:
        """The errors of all faces and of each subset: name -> (faces,) float64."""
        if isinstance(self.index, list) and not self.index:
            raise ValueError("no faces yet: update the metric before computing it")
        index = _array(dim_zero_cat(self.index))
        _, first = np.unique(index, return_index=True)
        distance, size = (_array(dim_zero_cat(s))[first] for s in (self.distance, self.normaliser))
        belongs = _array(dim_zero_cat(self.members))[first]
        found = {"all": distance / size}
        for column, name in enumerate(self.subsets):
            found[name] = found["all"][belongs[:, column]]
        return found

    def compute(self) -> Any:
        """The `value` of the errors; NaN for a subset without faces."""
        found = {
            name: torch.from_numpy(self.value(errors)).to(self.device)
            if len(errors)
            else torch.tensor(torch.nan, dtype=torch.float64, device=self.device)
            for name, errors in self.errors().items()
        }
        return found if self.subsets else found["all"]

    def value(self, errors: np.ndarray) -> np.ndarray:
        """The errors themselves."""
        return errors


class NME(FaceErrors):
    """The mean NME over faces, a fraction, float64."""

    higher_is_better = False

    def value(self, errors: np.ndarray) -> np.ndarray:
        """The mean."""
        return np.asarray(errors.mean())


class FailureRate(FaceErrors):
    """The share of faces with NME > threshold."""

    higher_is_better = False

    def __init__(self, threshold: float = 0.10, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.threshold = threshold

    def value(self, errors: np.ndarray) -> np.ndarray:
        """FR@threshold."""
        return np.asarray(metrics.failure_rate(errors, self.threshold))


class AUC(FaceErrors):
    """The area under the CED up to threshold, over threshold."""

    higher_is_better = True

    def __init__(self, threshold: float = 0.08, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.threshold = threshold

    def value(self, errors: np.ndarray) -> np.ndarray:
        """AUC@threshold."""
        return np.asarray(metrics.auc(errors, self.threshold))


class CED(FaceErrors):
    """The share of faces with NME <= each of the thresholds, (thresholds,)."""

    def __init__(self, thresholds: Sequence[float], **arguments: Any) -> None:
        super().__init__(**arguments)
        self.thresholds = np.asarray(thresholds, np.float64)

    def value(self, errors: np.ndarray) -> np.ndarray:
        """The curve."""
        return metrics.ced(errors, self.thresholds)


def _array(values: Tensor) -> np.ndarray:
    return np.asarray(torch.as_tensor(values).detach().cpu().numpy())
