"""Prediction shared by the processes that torchrun started."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Subset

from ccdn.inference.crops import Array, Crops, Predictions, predict_faces
from ccdn.runtime.processes import Processes


def predict_shared(
    processes: Processes,
    model: nn.Module,
    crops: Crops,
    mean_shape: Array,
    device: str | torch.device = "cpu",
    batch_size: int = 32,
    flip_test: bool = False,
    progress: Callable[[Iterable[int]], Iterable[int]] | None = None,
) -> Predictions:
    """`predict_faces` of all crops; each process does its share and gets the whole result.

    progress: used by the first process. Other arguments and errors are those of `predict_faces`.
    """
    mine = processes.share(len(crops))
    part: Any = crops if processes.group is None else Subset(crops, mine)  # type: ignore[arg-type]
    bar = progress if processes.first else None
    found = predict_faces(model, part, mean_shape, device, batch_size, flip_test, bar)
    if processes.group is None:
        return found
    held = processes.gather((mine, found))
    indices = np.concatenate([own for own, _ in held])
    _, order = np.unique(indices, return_index=True)  # each face once, in the order of the set
    arrays = {
        field.name: np.concatenate([getattr(one, field.name) for _, one in held])[order]
        for field in fields(Predictions)
        if field.name != "size"
    }
    return Predictions(**arrays, size=found.size)
