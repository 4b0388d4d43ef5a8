"""Batches in an order that depends on (seed, epoch) only, prepared ahead of the step that uses
them.
"""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ccdn.training.device_crops import DeviceCrops

AHEAD = 4  # batches prepared in advance


class Crops(Protocol):
    """What the trainer needs of `ccdn.data.dataset.CropDataset`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...

    def set_epoch(self, epoch: int) -> None: ...


class Place(NamedTuple):
    """A batch's place in the run: the epoch and the step in it."""

    epoch: int
    step: int


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


def steps_per_epoch(faces: int, batch_size: int) -> int:
    """Full batches only: a small last batch would upset the batch statistics. At least one."""
    return max(1, faces // batch_size)


def epoch_order(faces: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation of the faces in an epoch, (faces,) int64."""
    return np.random.default_rng([seed, epoch]).permutation(faces)


class Share(NamedTuple):
    """The part of every batch that is one process's: that of `rank` of `size`.

    parts: the batch is done in so many parts, one after the other, each by all processes together.
    """

    rank: int = 0
    size: int = 1
    parts: int = 1

    def of(self, batch: np.ndarray) -> np.ndarray:
        """This process's samples of a batch, part after part; all have equally many."""
        return batch.reshape(self.parts, self.size, -1)[:, self.rank].reshape(-1)


WHOLE = Share()


def usable_batch(faces: int, batch_size: int, share: Share = WHOLE) -> int:
    """The images of a batch: batch_size, or as many of the faces as there are for all parts of it.

    Raises ValueError where batch_size is no multiple of the parts, or there is no face for each.
    """
    pieces = share.size * share.parts
    named = f"{share.size} processes x {share.parts} accumulated parts"
    if batch_size % pieces:
        raise ValueError(f"a batch of {batch_size} cannot be shared equally by {named}")
    if faces < pieces:
        raise ValueError(f"{faces} training faces are too few for {named}")
    return min(batch_size, faces // pieces * pieces)


def batch_keys(
    faces: int, batch_size: int, seed: int, first: Place, epochs: int, share: Share = WHOLE
) -> Iterator[tuple[Place, list[int]]]:
    """The place and the indices of every batch from `first` to the end of the last epoch."""
    size = usable_batch(faces, batch_size, share)
    steps = steps_per_epoch(faces, size)
    for epoch in range(first.epoch, epochs):
        order = epoch_order(faces, seed, epoch)
        for step in range(first.step if epoch == first.epoch else 0, steps):
            chosen = order[step * size : (step + 1) * size]
            yield Place(epoch, step), share.of(chosen).tolist()


def batches(
    crops: Crops | DeviceCrops,
    batch_size: int,
    seed: int,
    first: Place,
    epochs: int,
    workers: int = 0,
    share: Share = WHOLE,
) -> Generator[Batch, None, None]:
    """Every batch from `first` on; the same ones whatever `workers` is.

    batch_size: images over all processes. share: which of them are this process's; together the
    processes get the batch that one alone would get. workers 0: one thread of this process prepares
    them; else so many processes. Close the iterator to stop them early. Raises BatchError for a
    face that cannot be read, ValueError for a batch that cannot be shared.
    """
    keys = batch_keys(len(crops), batch_size, seed, first, epochs, share)
    if workers == 0:
        yield from _by_thread(_Fetch(crops), keys)
    else:
        yield from _by_processes(_Fetch(crops), keys, workers)


class _Failure(NamedTuple):
    message: str


class _Fetch(Dataset):
    """Reads a whole batch for its key; the key carries the epoch, so that workers live through all
    epochs.
    """

    def __init__(self, crops: Crops | DeviceCrops) -> None:
        self.crops = crops

    def __getitem__(self, key: tuple[Place, list[int]]) -> Batch | _Failure:
        place, indices = key
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


def _by_thread(
    fetch: _Fetch, keys: Iterator[tuple[Place, list[int]]]
) -> Generator[Batch, None, None]:
    ready: queue.Queue[Any] = queue.Queue(AHEAD)
    stop = threading.Event()

    def put(item: Any) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def prepare() -> None:
        try:
            for key in keys:
                if not put(fetch[key]):
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=prepare, name="ccdn-batches", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield _checked(item)
    finally:
        stop.set()
        thread.join()


def _by_processes(
    fetch: _Fetch, keys: Iterator[tuple[Place, list[int]]], workers: int
) -> Generator[Batch, None, None]:
    loader: DataLoader[Any] = DataLoader(
        fetch,
        batch_size=None,
        sampler=keys,
        num_workers=workers,
        prefetch_factor=AHEAD,
        collate_fn=_as_is,
        worker_init_fn=_start_worker,
    )
    for item in loader:
        yield _checked(item)


def _as_is(item: Any) -> Any:
    return item


def _checked(item: Batch | _Failure) -> Batch:
    if isinstance(item, _Failure):
        raise BatchError(item.message)
    return item


def _start_worker(_: int) -> None:
    import cv2

    # Ctrl-C and job schedulers signal the whole process group; the trainer alone answers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
