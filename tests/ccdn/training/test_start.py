"""train.init: a run starts from the weights of another network, exactly, or says why it cannot."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torchruns import steps

from ccdn.checkpoint.bundled import DEFAULT_WEIGHTS
from ccdn.checkpoint.load import load_checkpoint
from ccdn.cli.train import main
from ccdn.config import load_config
from ccdn.models import build_model
from ccdn.training.start import start_from

# A rate of zero leaves the weights as they were; statistics would still move.
STILL = ("train.lr=0", "train.epochs=1", "train.batch_norm=frozen", "train.ema=0")


@pytest.fixture(scope="module")
def train(face_folder: Path, small: list[str]) -> Callable[..., int]:
    """Train in a folder with more options; the exit code."""

    def start(out: Path, *more: str) -> int:
        own = ["--config", "tiny", "--data", str(face_folder), "--out", str(out)]
        return main([*own, *small, "train.schedule=constant", *more])

    return start


@pytest.fixture(scope="module")
def trained(train: Callable[..., int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run from whose weights others start."""
    threads = torch.get_num_threads()
    out = tmp_path_factory.mktemp("trained")
    assert train(out, "train.epochs=6") == 0
    torch.set_num_threads(threads)
    return out


@pytest.fixture
def run(train: Callable[..., int], tmp_path: Path) -> Callable[..., int]:
    """Train in tmp_path/NAME with more options; the exit code."""
    return lambda name, *more: train(tmp_path / name, *more)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(path).weights()


def test_a_run_starts_from_the_weights_of_another(
    run: Any, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = trained / "weights.safetensors"
    capsys.readouterr()
    assert run("b", f"train.init={start}", *STILL) == 0
    assert f"starting from {start}" in capsys.readouterr().err
    one, other = weights(start), weights(tmp_path / "b" / "last.pt")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_first_loss_is_that_of_the_trained_network(
    run: Any, trained: Path, tmp_path: Path
) -> None:
    still = ("data.augmentation=none", "train.log_steps=1", *STILL)
    assert run("random", *still) == 0
    assert run("b", f"train.init={trained / 'last.pt'}", *still) == 0
    random, warm = (next(iter(steps(tmp_path / name).values())) for name in ("random", "b"))
    assert warm["nme"] < random["nme"]


def test_a_resumed_run_does_not_start_again(run: Any, trained: Path, tmp_path: Path) -> None:
    start = shutil.copy(trained / "last.pt", tmp_path / "a.pt")
    init = f"train.init={start}"
    assert run("b", init) == 0
    before = weights(tmp_path / "b" / "last.pt")
    start.unlink()
    assert run("b", init, "train.epochs=5", "--resume") == 0
    after = weights(tmp_path / "b" / "last.pt")
    assert load_checkpoint(tmp_path / "b" / "last.pt").epoch == 5
    assert not all(torch.equal(before[name], after[name]) for name in before)


def test_other_points_keep_all_but_the_regressors(trained: Path, small: list[str]) -> None:
    before = weights(trained / "last.pt")
    overrides = [*small, "model.points=5", f"train.init={trained / 'last.pt'}"]
    config = load_config("tiny", overrides)
    model = build_model(config.model)
    fresh = {name: value.clone() for name, value in model.state_dict().items()}
    assert "68 points, this run 5" in start_from(model, config)
    for name, value in model.state_dict().items():
        expected = fresh[name] if name.startswith("head") else before[name]
        assert torch.equal(value, expected), name


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("train.init={out}/nothing.pt",), "expected a checkpoint file"),
        (("train.init={out}",), "found a folder"),
        (("train.init={trained}", "model.channels=12"), "model.channels is 8, expected 12"),
        (("train.init={trained}", "model.excitations=3"), "model.excitations is"),
    ],
)
def test_what_does_not_fit_is_one_line(
    more: tuple[str, ...],
    message: str,
    run: Any,
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    capsys.readouterr()
    own = (part.format(out=tmp_path, trained=trained / "last.pt") for part in more)
    assert run("b", *own) == 2
    lines = capsys.readouterr().err.splitlines()
    assert message in lines[-1]
    assert not (tmp_path / "b" / "last.pt").exists()


def test_the_bundled_weights_start_quick() -> None:
    config = load_config("quick", ["train.init=bundled"])
    model = build_model(config.model)
    assert start_from(model, config).startswith("starting from the bundled weights")
    bundled = weights(DEFAULT_WEIGHTS)
    assert all(torch.equal(value, bundled[name]) for name, value in model.state_dict().items())
