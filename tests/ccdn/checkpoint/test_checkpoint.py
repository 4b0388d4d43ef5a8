"""Checkpoints: complete or absent, with clear errors about what is wrong with a file."""

from __future__ import annotations

import errno
import os
import pickle
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import ccdn
from ccdn.checkpoint.load import load_checkpoint, load_model
from ccdn.checkpoint.state import Checkpoint, CheckpointError
from ccdn.checkpoint.torch_file import save_checkpoint
from ccdn.config import ConfigError, config_to_dict, load_config
from ccdn.models import build_model
from ccdn.runtime.files import atomic_write, remove_leftovers


@pytest.fixture
def checkpoint(small: list[str]) -> Checkpoint:
    config = load_config("tiny", small)
    model = build_model(config.model)
    return Checkpoint(config, model.state_dict(), torch.full((68, 2), 0.5), epoch=2, step=10)


def test_what_is_saved_is_read_back(checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "last.pt", checkpoint)
    found = load_checkpoint(tmp_path / "last.pt")
    assert (found.config, found.epoch, found.step) == (checkpoint.config, 2, 10)
    assert found.versions["torch"] == torch.__version__
    assert all(torch.equal(found.model[name], value) for name, value in checkpoint.model.items())
    model, _ = load_model(tmp_path / "last.pt")
    assert not model.training
    assert model(torch.zeros(1, 3, 32, 32)).landmarks.shape == (1, 68, 2)


def test_the_averaged_weights_are_those_to_use(checkpoint: Checkpoint, tmp_path: Path) -> None:
    averaged = {name: value + 1 for name, value in checkpoint.model.items()}
    save_checkpoint(tmp_path / "last.pt", replace(checkpoint, averaged=averaged))
    model, _ = load_model(tmp_path / "last.pt")
    assert torch.equal(model.head.weight, averaged["head.weight"])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file(checkpoint: Checkpoint, tmp_path: Path, share: float) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, checkpoint)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(
        CheckpointError, match=r"last\.pt: expected a checkpoint of ccdn train.*trunc"
    ):
        load_checkpoint(path)


class _Trap:
    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, ("executed",))


def test_nothing_in_a_file_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"format": _Trap()}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(_Trap(), protocol=2))
    for name in ("a.pt", "b.pt"):
        with pytest.raises(CheckpointError, match="expected a checkpoint"):
            load_checkpoint(tmp_path / name)
    assert not (tmp_path / "executed").exists()


def test_files_of_another_kind(checkpoint: Checkpoint, tmp_path: Path) -> None:
    torch.save({"state_dict": checkpoint.model}, tmp_path / "foreign.pt")
    with pytest.raises(CheckpointError, match=r"foreign\.pt.*'ccdn-checkpoint-1'.*found None"):
        load_checkpoint(tmp_path / "foreign.pt")
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    with pytest.raises(CheckpointError, match="found 'Tensor'"):
        load_checkpoint(tmp_path / "tensor.pt")
    with pytest.raises(CheckpointError, match=r"expected a checkpoint file.*found nothing"):
        load_checkpoint(tmp_path / "gone.pt")
    with pytest.raises(CheckpointError, match="found a folder"):
        load_checkpoint(tmp_path)


def test_weights_that_do_not_fit(checkpoint: Checkpoint, tmp_path: Path) -> None:
    weights = dict(checkpoint.model)
    weights["head.bias"] = torch.zeros(4)
    save_checkpoint(tmp_path / "a.pt", replace(checkpoint, model=weights))
    with pytest.raises(CheckpointError, match=r"head\.bias has the shape \(4,\).*expects \(136,\)"):
        load_model(tmp_path / "a.pt")
    del weights["head.bias"]
    save_checkpoint(tmp_path / "b.pt", replace(checkpoint, model=weights))
    with pytest.raises(CheckpointError, match=r"lack head\.bias"):
        load_model(tmp_path / "b.pt")


def test_a_full_disk_leaves_the_file_before(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, checkpoint)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, replace(checkpoint, step=11))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "last.pt") as file:
        file.write(b"whole")
    (tmp_path / ".last.pt.abc.tmp").write_bytes(b"half")
    remove_leftovers(tmp_path / "last.pt")
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("config", 5),
        ("model", [1]),
        ("mean_shape", "a"),
        ("data", None),
        ("averaged", 5),
        ("optimizer", "a"),
        ("epoch", "1"),
        ("best", [1.0]),
        ("processes", None),
        ("created", 5),
    ],
)
def test_a_field_of_another_type(
    name: str, value: object, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "a.pt", checkpoint)
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    torch.save({**content, name: value}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=rf"{name} should be a .*{type(value).__name__}"):
        load_checkpoint(tmp_path / "a.pt")


def test_weights_that_are_not_tensors(checkpoint: Checkpoint, tmp_path: Path) -> None:
    weights = dict.fromkeys(checkpoint.model, 3)
    save_checkpoint(tmp_path / "a.pt", replace(checkpoint, model=weights))  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="should be a tensor, found int"):
        load_model(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w * float("nan"), "holds numbers that are not finite"),
        (lambda w: w.to(torch.complex64), r"the dtype torch.complex64, the model expects torch.fl"),
        (lambda w: w.int(), r"the dtype torch.int32, the model expects torch.float32"),
        (lambda w: w.to("meta"), "is a meta tensor, the model expects a dense"),
        (lambda w: w.to_sparse(), "is a torch.sparse_coo tensor, the model expects a dense"),
    ],
)
def test_weights_that_are_not_dense_finite_numbers(
    change: Callable[[Tensor], Tensor], message: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    weights = dict(checkpoint.model)
    weights["head.weight"] = change(weights["head.weight"])
    save_checkpoint(tmp_path / "a.pt", replace(checkpoint, model=weights))
    with pytest.raises(CheckpointError, match=rf"a\.pt: head\.weight .*{message}"):
        load_model(tmp_path / "a.pt")


def test_a_network_too_large_for_the_memory(checkpoint: Checkpoint, tmp_path: Path) -> None:
    config = config_to_dict(checkpoint.config)
    config["model"]["channels"] = 10**12
    save_checkpoint(tmp_path / "a.pt", checkpoint)
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    torch.save({**content, "config": config}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"a\.pt: its model cannot be built: .*too large"):
        load_model(tmp_path / "a.pt")


@pytest.mark.parametrize("device", ["abacus", "meta", "cuda:99"])
def test_a_device_that_is_not_there(device: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pt", checkpoint)
    with pytest.raises(ConfigError, match=f"device.*{device}"):
        ccdn.load(tmp_path / "a.pt", device)


def test_a_foreign_pickle_makes_no_other_noise(tmp_path: Path) -> None:
    (tmp_path / "b.pt").write_bytes(pickle.dumps({"a": 1}, protocol=4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(CheckpointError, match="another kind of file"):
            load_checkpoint(tmp_path / "b.pt")
