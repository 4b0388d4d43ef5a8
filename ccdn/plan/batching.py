"""Which faces each step takes and how processes share them: a function of (seed, epoch)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np


class Place(NamedTuple):
    """A batch's place in the run: the epoch and the step in it."""

    epoch: int
    step: int


class Share(NamedTuple):
    """The part of every batch that is one process's: that of `rank` of `size`.

    parts: the number of parts in which all processes together do the batch, one after the other.
    """

    rank: int = 0
    size: int = 1
    parts: int = 1

    def of(self, batch: np.ndarray) -> np.ndarray:
        """This process's samples of a batch, part after part; all have equally many."""
        return batch.reshape(self.parts, self.size, -1)[:, self.rank].reshape(-1)


WHOLE = Share()


def steps_per_epoch(faces: int, batch_size: int) -> int:
    """Full batches only: a small last batch would upset the batch statistics. At least one."""
    return max(1, faces // batch_size)


def epoch_order(faces: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation of the faces in an epoch, (faces,) int64."""
    return np.random.default_rng([seed, epoch]).permutation(faces)


def usable_batch(faces: int, batch_size: int, share: Share = WHOLE) -> int:
    """The images of a batch: batch_size, or as many of the faces as there are for all parts of it.

    Raises ValueError if batch_size is not a multiple of the parts, or there is no face for each.
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
