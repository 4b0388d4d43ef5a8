"""Batches in an order that depends on (seed, epoch) only, prepared ahead of the step that uses
them.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ccdn.plan.batching import WHOLE, Place, Share, batch_keys, steps_per_epoch, usable_batch
from ccdn.training.device_crops import DeviceCrops
from ccdn.training.workers import Stop, by_processes, by_thread


class TrainingCrops(Protocol):
    """The part of `ccdn.data.dataset.CropDataset` that the trainer needs."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...

    def set_epoch(self, epoch: int) -> None: ...


class Batch(NamedTuple):
    """images: uint8 (B, 3, S, S); landmarks: float32 (B, L, 2) in [0, 1] of the crop; indices:
    int64 (B,).
    """

    place: Place
    images: Tensor
    landmarks: Tensor
    indices: Tensor


class BatchError(ValueError):
    """A face that could not be read while training; the message names it."""


def batches(
    crops: TrainingCrops | DeviceCrops,
    batch_size: int,
    seed: int,
    first: Place,
    epochs: int,
    workers: int = 0,
    share: Share = WHOLE,
    stop: Stop = lambda: False,
) -> Generator[Batch, None, None]:
    """Every batch from `first` on; the same batches for any number of `workers`.

    batch_size: images over all processes. share: this process's part of them; together the
    processes get the batch that a single one would get. workers: the number of processes that
    prepare batches; 0: one thread of this process. stop: polled during the wait for a batch; once
    it returns True, no more batches follow. Close the iterator to stop early. Raises BatchError for
    a face that cannot be read, WorkerError for a process that has ended, and ValueError for a batch
    that cannot be shared.
    """
    keys = _Keys(len(crops), batch_size, seed, first, epochs, share)
    steps = steps_per_epoch(len(crops), usable_batch(len(crops), batch_size, share))
    count = max(0, (epochs - first.epoch) * steps - first.step)
    if workers == 0:
        found = by_thread(_Prepare(crops, keys), count, stop)
    else:
        found = by_processes(_PrepareArrays(crops, keys), count, workers, stop)
    try:
        for item in found:
            if isinstance(item, _Failure):
                raise BatchError(item.message)
            yield item if isinstance(item, Batch) else _as_batch(*item)
    finally:
        found.close()


class _Failure(NamedTuple):
    message: str


class _Keys(NamedTuple):
    """The arguments of `batch_keys`."""

    faces: int
    batch_size: int
    seed: int
    first: Place
    epochs: int
    share: Share


class _Prepare:
    """Reads the batches of every n-th key; the key carries the epoch."""

    def __init__(self, crops: TrainingCrops | DeviceCrops, keys: _Keys) -> None:
        self.crops = crops
        self.keys = keys

    def __call__(self, number: int, step: int) -> Iterator[Any]:
        for place, indices in islice(batch_keys(*self.keys), number, None, step):
            yield self.prepared(place, indices)

    def prepared(self, place: Place, indices: list[int]) -> Any:
        try:
            self.crops.set_epoch(place.epoch)
            if isinstance(self.crops, DeviceCrops):
                items = self.crops.batch(indices)
                return Batch(place, items["image"], items["landmarks"], torch.tensor(indices))
            found = [self.crops[index] for index in indices]
        except (ValueError, OSError) as error:
            return _Failure(str(error))
        return Batch(
            place,
            torch.stack([torch.as_tensor(item["image"]) for item in found]),
            torch.stack([torch.as_tensor(item["landmarks"]) for item in found]),
            torch.tensor(indices),
        )


class _PrepareArrays(_Prepare):
    """The same as arrays, whose memory crosses a pipe unchanged."""

    def prepared(self, place: Place, indices: list[int]) -> Any:
        found = super().prepared(place, indices)
        if isinstance(found, Batch):
            return (tuple(place), *(tensor.numpy() for tensor in found[1:]))
        return found


def _as_batch(
    place: tuple[int, int], images: np.ndarray, landmarks: np.ndarray, indices: np.ndarray
) -> Batch:
    tensors = [torch.from_numpy(array) for array in (images, landmarks, indices)]
    return Batch(Place(*place), *tensors)
