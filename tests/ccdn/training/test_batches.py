"""Batches are the same whoever prepares them and wherever a run resumes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ccdn.plan.batching import Place, epoch_order, steps_per_epoch
from ccdn.training.batches import Batch, BatchError, batches


class Numbers:
    """Stands for a CropDataset: an item is a function of epoch and index."""

    def __init__(self, count: int = 10, bad: int = -1) -> None:
        self.count, self.bad, self.epoch = count, bad, 0

    def __len__(self) -> int:
        return self.count

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == self.bad:
            raise ValueError(f"face{index}.png: the image file is empty")
        value = 100 * self.epoch + index
        return {
            "image": torch.full((3, 2, 2), value % 251, dtype=torch.uint8),
            "landmarks": torch.full((2, 2), float(value)),
        }


def read(first: Place, workers: int = 0, epochs: int = 3, count: int = 10) -> list[Batch]:
    return list(batches(Numbers(count), 4, seed=5, first=first, epochs=epochs, workers=workers))


def same(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(
        x.place == y.place
        and torch.equal(x.indices, y.indices)
        and torch.equal(x.landmarks, y.landmarks)
        and torch.equal(x.images, y.images)
        for x, y in zip(a, b, strict=True)
    )


def test_an_epoch_is_a_permutation_of_its_own() -> None:
    orders = [epoch_order(50, 1, epoch) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert not np.array_equal(*orders)
    assert not np.array_equal(orders[0], epoch_order(50, 2, 0))


def test_batches_are_full_and_carry_their_epoch() -> None:
    found = read(Place(0, 0))
    assert [batch.place for batch in found] == [Place(e, s) for e in range(3) for s in range(2)]
    for batch in found:
        assert torch.equal(batch.landmarks[:, 0, 0], 100.0 * batch.place.epoch + batch.indices)
    assert steps_per_epoch(10, 4) == 2
    assert steps_per_epoch(3, 4) == 1
    assert len(read(Place(0, 0), count=3)[0].indices) == 3


def test_processes_prepare_the_same_batches() -> None:
    assert same(read(Place(0, 0)), read(Place(0, 0), workers=2))


def test_a_later_start_gives_the_rest() -> None:
    assert same(read(Place(0, 0))[3:], read(Place(1, 1)))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_face_is_named(workers: int) -> None:
    stream = batches(Numbers(bad=7), 4, seed=0, first=Place(0, 0), epochs=9, workers=workers)
    with pytest.raises(BatchError, match=r"^face7\.png: the image file is empty$"):
        list(stream)


def test_an_error_in_the_thread_arrives() -> None:
    class Broken(Numbers):
        def set_epoch(self, epoch: int) -> None:
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        list(batches(Broken(), 4, seed=0, first=Place(0, 0), epochs=1))


def test_a_stream_can_be_closed_early() -> None:
    stream = batches(Numbers(), 4, seed=0, first=Place(0, 0), epochs=10_000)
    next(stream)
    stream.close()
    with pytest.raises(StopIteration):
        next(stream)
