"""A network's landmarks for a set of faces, in pixels of their pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ccdn.data import layout
from ccdn.inference.alignment import crop_to_image
from ccdn.inference.torch_network import look

Array = np.ndarray[Any, np.dtype[Any]]


class Crops(Protocol):
    """What prediction needs of `ccdn.data.dataset.CropDataset`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Predictions:
    """Landmarks of N faces in pixels of their pictures; matrices maps the picture to the crop.

    predicted, truth, mean_shape: (N, L, 2); mean_shape is the training set's mean, laid into each
    crop. matrices: (N, 2, 3). size: side of the crop.
    """

    predicted: Array
    truth: Array
    mean_shape: Array
    matrices: Array
    size: int


def predict_crops(model: nn.Module, images: Tensor, flip: Sequence[int] | None = None) -> Array:
    """Landmarks (B, L, 2) in [0, 1] of uint8 crops (B, 3, S, S); with `flip`, averaged with those
    of the mirrored crops.

    flip: the permutation of the landmarks under mirroring, (L,). The model keeps its mode.
    """
    seen = look(model, images, flip)
    return seen.landmarks if seen.mirrored is None else (seen.landmarks + seen.mirrored) / 2


def predict_faces(
    model: nn.Module,
    crops: Crops,
    mean_shape: Array,
    device: str | torch.device = "cpu",
    batch_size: int = 32,
    flip_test: bool = False,
    progress: Callable[[Iterable[int]], Iterable[int]] | None = None,
) -> Predictions:
    """Run the network over all crops, in evaluation mode; its mode is restored afterwards.

    mean_shape: (L, 2) in [0, 1] of the crop. progress wraps the batches' starts, as tqdm does.
    Raises ValueError for flip_test with a layout whose mirror permutation is not known.
    """
    flip = layout(len(mean_shape)).flip if flip_test else None
    predicted: list[Array] = []
    truth: list[Array] = []
    means: list[Array] = []
    matrices: list[Array] = []
    starts: Iterable[int] = range(0, len(crops), batch_size)
    was_training = model.training
    model.eval()
    size = 0
    try:
        for start in starts if progress is None else progress(starts):
            items = [crops[i] for i in range(start, min(start + batch_size, len(crops)))]
            images = torch.stack([torch.as_tensor(item["image"]) for item in items]).to(device)
            size = images.shape[-1]
            found = predict_crops(model, images, flip)
            for item, landmarks in zip(items, found, strict=True):
                matrix = np.asarray(item["matrix"], np.float64)
                matrices.append(matrix)
                predicted.append(crop_to_image(landmarks, matrix, size))
                truth.append(crop_to_image(np.asarray(item["landmarks"]), matrix, size))
                means.append(crop_to_image(mean_shape, matrix, size))
    finally:
        model.train(was_training)
    return Predictions(
        np.stack(predicted), np.stack(truth), np.stack(means), np.stack(matrices), size
    )
