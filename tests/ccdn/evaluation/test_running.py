"""Metrics gathered batch by batch and over processes: the same numbers as of the whole set."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torchmetrics import MetricCollection

from ccdn.evaluation import metrics
from ccdn.evaluation.running import AUC, CED, NME, FaceErrors, FailureRate

FACES = 11


def made() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    target = random.uniform(0, 100, (FACES, 68, 2))
    pred = target + random.normal(0, random.gamma(1.0, 4.0, (FACES, 1, 1)), target.shape)
    return pred, target, random.random(FACES) < 0.5


def collection() -> MetricCollection:
    return MetricCollection(
        {
            "nme": NME(subsets=["pose"]),
            "pupil": NME(norm="inter_pupil"),
            "fr": FailureRate(0.1),
            "auc": AUC(0.1, subsets=["pose"]),
            "ced": CED([0.02, 0.1], norm="inter_pupil"),
        }
    )


def feed(found: MetricCollection, indices: list[int]) -> None:
    pred, target, pose = (torch.from_numpy(a[indices]) for a in made())
    found.update(pred, target, index=torch.tensor(indices), members={"pose": pose})


def expected() -> dict[str, object]:
    pred, target, pose = made()
    ocular, pupil = metrics.nme(pred, target), metrics.nme(pred, target, "inter_pupil")
    return {
        "nme": {"all": ocular.mean(), "pose": ocular[pose].mean()},
        "pupil": pupil.mean(),
        "fr": metrics.failure_rate(ocular, 0.1),
        "auc": {"all": metrics.auc(ocular, 0.1), "pose": metrics.auc(ocular[pose], 0.1)},
        "ced": metrics.ced(pupil, np.array([0.02, 0.1])).tolist(),
    }


def plain(found: object) -> object:
    if isinstance(found, dict):
        return {key: plain(value) for key, value in found.items()}
    assert isinstance(found, torch.Tensor)
    assert found.dtype == torch.float64
    return found.tolist()


def of_collection(found: MetricCollection) -> object:
    return plain({name: metric.compute() for name, metric in found.items()})


def test_batches_give_the_numbers_of_the_whole() -> None:
    found = collection()
    for indices in ([3, 0], [1, 2, 4, 5, 6], [10, 9, 8, 7]):
        feed(found, indices)
    assert of_collection(found) == expected()


def test_a_face_that_comes_twice_counts_once() -> None:
    found = collection()
    feed(found, list(range(FACES)))
    feed(found, [4, 2])
    assert of_collection(found) == expected()


def test_perfect_predictions_do_not_join_two_norms() -> None:
    found = MetricCollection({"ocular": NME(), "pupil": NME(norm="inter_pupil")})
    pred, target, _ = (torch.from_numpy(a) for a in made())
    found.update(target[:1], target[:1], index=torch.tensor([0]))
    found.update(pred[1:], target[1:], index=torch.arange(1, FACES))
    assert found["ocular"].compute() != found["pupil"].compute()


def _one_of_two(rank: int, folder: Path) -> None:
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    found = collection()
    # As a distributed sampler pads: the processes have as many faces, one of them twice.
    mine = [*range(rank, FACES, 2), *([0] if rank else [])]
    for start in range(0, len(mine), 4):
        feed(found, mine[start : start + 4])
    (folder / f"{rank}.json").write_text(json.dumps(of_collection(found)))
    dist.destroy_process_group()


@pytest.mark.skipif(sys.platform == "win32", reason="gloo's file store needs POSIX locks")
def test_two_processes_give_exactly_the_numbers_of_one(tmp_path: Path) -> None:
    mp.start_processes(_one_of_two, (tmp_path,), nprocs=2, start_method="fork")
    for rank in (0, 1):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == expected()


def test_what_is_true_of_each_metric() -> None:
    assert (FailureRate().threshold, AUC().threshold) == (0.10, 0.08)
    assert (NME().higher_is_better, FailureRate().higher_is_better) == (False, False)
    assert AUC().higher_is_better
    assert not FaceErrors().is_differentiable
    # Otherwise torchmetrics would compute every state twice.
    assert FaceErrors().full_state_update is False


@pytest.mark.parametrize("names", [["all"], ["pose", "all"], ["pose", "pose"], list("aab")])
def test_names_of_subsets_differ(names: list[str]) -> None:
    with pytest.raises(ValueError, match=r"subsets must differ and not be named 'all', found \["):
        NME(subsets=names)


def test_bad_input_is_refused() -> None:
    pred, target, _ = (torch.from_numpy(a) for a in made())
    with pytest.raises(ValueError, match="norm must be one of"):
        NME(norm="iod")
    for count in (FACES - 1, FACES + 1):
        with pytest.raises(ValueError, match=f"found {count} indices for {FACES} faces"):
            NME().update(pred, target, torch.arange(count))
    with pytest.raises(ValueError, match="no members given of the subset 'blur'"):
        NME(subsets=["pose", "blur"]).update(pred, target, torch.arange(FACES))
    for shape in ((FACES - 1,), (FACES + 1,), (FACES, 1), (1,)):
        members = {"pose": torch.ones(shape).bool()}
        with pytest.raises(ValueError, match=rf"subset 'pose': found \(.*expected \({FACES},\)"):
            NME(subsets=["pose"]).update(pred, target, torch.arange(FACES), members=members)
    with pytest.raises(ValueError, match="no faces yet"):
        FaceErrors().errors()
    empty = NME(subsets=["pose"])
    empty.update(pred, target, torch.arange(FACES), members={"pose": torch.zeros(FACES).bool()})
    assert torch.isnan(empty.compute()["pose"])
