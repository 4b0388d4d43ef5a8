"""Weights as safetensors: with their configuration, never executed, and bad ones named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

import ccdn
from ccdn.checkpoint.load import load_checkpoint
from ccdn.checkpoint.safetensors_file import save_portable
from ccdn.checkpoint.state import Checkpoint, CheckpointError
from ccdn.checkpoint.torch_file import save_checkpoint
from ccdn.config import load_config
from ccdn.models import build_model

VARIANTS = {"ccdn": [], "fcdn": ["model.orders=1"], "baseline": ["model.ctm=false"]}


def checkpoint_of(small: list[str], *overrides: str) -> Checkpoint:
    config = load_config("tiny", [*small, *overrides])
    torch.manual_seed(0)
    model = build_model(config.model)
    with torch.no_grad():
        model.head.weight.normal_(0, 0.1)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    data = {"name": "made up", "faces": 20}
    shape = torch.rand(68, 2)
    return Checkpoint(config, model.state_dict(), shape, epoch=2, step=10, faces=20, data=data)


@pytest.fixture
def checkpoint(small: list[str]) -> Checkpoint:
    return checkpoint_of(small)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_network_comes_back_from_its_file(variant: str, small: list[str], tmp_path: Path) -> None:
    saved = checkpoint_of(small, *VARIANTS[variant])
    path = tmp_path / "face.safetensors"
    save_portable(path, saved)
    found = load_checkpoint(path)
    assert found.config == saved.config
    assert (found.step, found.epoch, found.faces, found.data) == (10, 2, 20, saved.data)
    assert torch.equal(found.mean_shape, saved.mean_shape)
    assert found.optimizer is None
    model = ccdn.load(path)
    assert not model.training
    assert model.config == saved.config.model
    expected = build_model(saved.config.model).eval()
    expected.load_state_dict(saved.model)
    crops = torch.rand(2, 3, 32, 32)
    assert torch.equal(model(crops).landmarks, expected(crops).landmarks)


def test_a_checkpoint_of_the_trainer_loads_as_well(checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "last.pt", checkpoint)
    model = ccdn.load(str(tmp_path / "last.pt"))
    assert torch.equal(model.head.weight, checkpoint.model["head.weight"])


def test_the_averaged_weights_are_those_written(checkpoint: Checkpoint, tmp_path: Path) -> None:
    averaged = {name: value + 1 for name, value in checkpoint.model.items()}
    save_portable(tmp_path / "a.safetensors", replace(checkpoint, averaged=averaged))
    found = load_checkpoint(tmp_path / "a.safetensors")
    assert found.averaged is not None
    assert torch.equal(found.weights()["head.weight"], averaged["head.weight"])


def test_another_configuration_is_refused_by_its_fields(
    checkpoint: Checkpoint, small: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    save_portable(path, checkpoint)
    ccdn.load(path, expected=checkpoint.config)
    others = load_config("tiny", [*small, "model.orders=1", "model.points=98", "train.lr=1"])
    with pytest.raises(CheckpointError) as error:
        ccdn.load(path, expected=others)
    assert str(error.value) == (
        f"{path}: made with another configuration: model.points is 68, expected 98;"
        " model.orders is 2, expected 1"
    )
    with pytest.raises(CheckpointError, match=r"model\.input_size is 32, expected 64"):
        ccdn.load(path, expected="tiny")


@pytest.mark.parametrize("share", [0.0005, 0.1, 0.5, 0.999])
def test_a_truncated_file(checkpoint: Checkpoint, tmp_path: Path, share: float) -> None:
    path = tmp_path / "a.safetensors"
    save_portable(path, checkpoint)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"a\.safetensors: expected a .* truncated one"):
        load_checkpoint(path)


def test_files_of_another_kind(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file({"x": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match=r"format 'ccdn-weights-1'.*found None"):
        load_checkpoint(path)
    path.write_bytes(b"12345678{nonsense")
    with pytest.raises(CheckpointError, match="another kind of file"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("config", '{"model": {"pionts": 3}}', "unknown key 'model.pionts'"),
        ("config", "[1]", "config should be a dict, found list"),
        ("config", "{", "config in its metadata is not JSON"),
        ("config", "[" * 99999, "config in its metadata is not JSON"),
        ("step", '"a"', "step should be a int, found str"),
        ("step", None, "its metadata lack step"),
        ("mean_shape", None, "lacks the tensor mean_shape"),
    ],
)
def test_a_field_that_does_not_fit(
    name: str, value: str | None, message: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    save_portable(path, checkpoint)
    tensors = safetensors.torch.load_file(path)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + length])["__metadata__"]
    tensors.pop(name, None)
    metadata.pop(name, None)
    if value is not None:
        metadata[name] = value
    safetensors.torch.save_file(tensors, path, metadata)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
