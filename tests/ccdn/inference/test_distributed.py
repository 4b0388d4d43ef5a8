"""A set of faces predicted by several processes is the set predicted by one, each face once."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from ccdn.evaluation.metrics import nme
from ccdn.inference.crops import Predictions
from ccdn.inference.distributed import predict_shared
from ccdn.models import Output
from ccdn.runtime.processes import ALONE, Processes

POINTS = 68


class Numbered(nn.Module):
    """Gives landmarks that follow from the first pixel of the crop."""

    def forward(self, images: Tensor) -> Output:
        first = images[:, 0, 0, 0].double()[:, None, None]
        return Output((first + torch.arange(POINTS * 2).view(POINTS, 2)) / 200, ())


class Crops:
    """Faces whose first pixel is their number, each in a crop of its own scale."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.landmarks = torch.rand(count, POINTS, 2, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "image": torch.full((3, 4, 4), index, dtype=torch.uint8),
            "landmarks": self.landmarks[index],
            "matrix": np.array([[1.0 + index, 0, index], [0, 1.0 + index, 0]]),
        }


def predicted(processes: Processes, count: int) -> Predictions:
    return predict_shared(
        processes, Numbered(), Crops(count), np.full((POINTS, 2), 0.5), batch_size=3
    )


def _one_of(rank: int, size: int, counts: tuple[int, ...], folder: Path) -> None:
    store = dist.FileStore(str(folder / "store"), size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    for count in counts:
        found = predicted(Processes(rank, size, rank, dist.group.WORLD), count)
        torch.save(vars(found), folder / f"{rank} of {count}")
    dist.destroy_process_group()


@pytest.mark.skipif(sys.platform == "win32", reason="gloo's file store needs POSIX locks")
@pytest.mark.parametrize("size", [2, 3])
def test_the_faces_of_several_processes_are_those_of_one(size: int, tmp_path: Path) -> None:
    """Also where the processes' shares overlap, because the faces cannot be divided equally."""
    counts = (1, 6, 11)
    mp.start_processes(_one_of, (size, counts, tmp_path), nprocs=size, start_method="fork")
    for count in counts:
        alone = predicted(ALONE, count)
        score = nme(alone.predicted, alone.truth).mean()
        for rank in range(size):
            found = Predictions(**torch.load(tmp_path / f"{rank} of {count}", weights_only=False))
            for field in fields(Predictions):
                name = field.name
                np.testing.assert_array_equal(getattr(found, name), getattr(alone, name), name)
            assert nme(found.predicted, found.truth).mean() == score
