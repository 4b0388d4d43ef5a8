"""The fields of `train`: each does what it says, on the CPU."""

from __future__ import annotations

import errno
import itertools
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torchruns import steps

from ccdn.checkpoint.load import load_checkpoint
from ccdn.checkpoint.state import CheckpointError
from ccdn.checkpoint.torch_file import save_checkpoint
from ccdn.cli.train import main
from ccdn.config import Config, ConfigError, LossConfig, load_config
from ccdn.models import Output, objective
from ccdn.plan.faces import open_training_faces
from ccdn.plan.training import plan_training
from ccdn.runtime.files import atomic_write
from ccdn.training import trainer as trainer_module
from ccdn.training.optimizer import rate_factor
from ccdn.training.records import in_words
from ccdn.training.resume import load_last
from ccdn.training.step import SMALLEST_SCALE
from ccdn.training.trainer import Trainer, TrainingError


@pytest.fixture
def run(
    face_folder: Path, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Start a run in tmp_path/NAME with more options; the exit code. It draws no curves."""
    monkeypatch.setattr("ccdn.training.records.draw_curves", lambda *_: None)

    def start(name: str, *more: str) -> int:
        own = ["--config", "tiny", "--data", str(face_folder), "--out", str(tmp_path / name)]
        return main([*own, *small, "train.log_steps=1", "train.schedule=constant", *more])

    return start


def losses(out: Path) -> list[float]:
    return [record["loss"] for record in steps(out).values()]


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp64"])
def test_precisions_learn_alike(precision: str, run: Any, tmp_path: Path) -> None:
    """The same first loss to the precision of the pooled features, and learning after it."""
    more = ("train.cocs.t=0", "train.cocs.t1=0", "train.cocs.g=0", "data.augmentation=none")
    more += ("train.epochs=2",)
    assert run("fp32", *more) == 0
    assert run(precision, f"train.precision={precision}", *more) == 0
    full, other = losses(tmp_path / "fp32"), losses(tmp_path / precision)
    # Heads begin at zero weights, so the first output is the mean shape in every precision.
    assert other[0] == pytest.approx(full[0], rel=1e-5)
    epoch = slice(5, 10)
    assert sum(other[epoch]) == pytest.approx(sum(full[epoch]), rel=0.15)
    saved = load_checkpoint(tmp_path / precision / "last.pt")
    kind = torch.float64 if precision == "fp64" else torch.float32
    assert saved.model["head.weight"].dtype == kind
    assert bool(saved.scaler) == (precision == "fp16")


def test_fp16_leaves_out_steps_that_overflow(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(
        "torch.amp.GradScaler", lambda kind, enabled: scaler(kind, 2.0**60, enabled=enabled)
    )
    assert run("huge", "train.precision=fp16") == 0
    scale = load_checkpoint(tmp_path / "huge/last.pt").scaler["scale"]
    assert SMALLEST_SCALE < scale < 2.0**60
    assert all(math.isfinite(loss) for loss in losses(tmp_path / "huge"))


@pytest.mark.skipif(torch.__version__ >= "2.14", reason="torch 2.14 and newer do it right")
def test_autocast_of_inductor_on_the_cpu_is_refused(
    run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("a", "train.compile=inductor", "train.precision=bf16") == 2
    assert "expected aot_eager, fp32, or torch 2.14" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_compiled_step_is_the_same(backend: str, run: Any, tmp_path: Path) -> None:
    more = ("train.precision=fp64", "train.epochs=2", "data.holdout=0.2", "train.eval_epochs=1")
    assert run("eager", *more) == 0
    assert run("compiled", f"train.compile={backend}", *more) == 0
    for ours, theirs in zip(losses(tmp_path / "compiled"), losses(tmp_path / "eager"), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-8)


def test_frozen_statistics_stay(run: Any, tmp_path: Path) -> None:
    for kind in ("local", "frozen"):
        assert run(kind, f"train.batch_norm={kind}", "train.epochs=1") == 0
        saved = load_checkpoint(tmp_path / kind / "last.pt").model
        moved = [value.any() for name, value in saved.items() if name.endswith("running_mean")]
        assert moved
        assert any(moved) == all(moved) == (kind == "local")


def test_synchronised_statistics_want_gpus(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("sync", "train.batch_norm=sync") == 2
    assert "sync needs GPUs, found the CPU" in capsys.readouterr().err


def test_a_batch_of_each_process_scales_the_rate() -> None:
    config = load_config("tiny", ["train.batch_scope=process", "train.lr_scaling=sqrt"]).train
    assert rate_factor(config, 4) == 2
    with pytest.raises(ConfigError, match=r"lr_scaling.*batch_scope global"):
        load_config("tiny", ["train.lr_scaling=linear"])


def test_deterministic_operators_are_asked_for(run: Any) -> None:
    try:
        assert run("same", "train.deterministic=true", "train.epochs=1") == 0
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("unit", ["unit", "pixels"])
@pytest.mark.parametrize("kind", ["smooth_l1", "wing"])
def test_losses_of_single_coordinates(kind: str, unit: str) -> None:
    """Against the definitions, with errors on both sides of the width, in pixels of the crop."""
    size, width, curvature = 64, 10.0, 2.0
    pixels = torch.tensor([0.0, 0.25, -0.5, 3.0, -9.0, 12.0, -30.0, 1.5], dtype=torch.float64)
    target = torch.rand(2, 2, 2, dtype=torch.float64)
    landmarks = (target + pixels.view(2, 2, 2) / size).requires_grad_()

    def expected(x: float) -> float:
        x = abs(x)
        if kind == "smooth_l1":
            return x * x / 2 if x < 1 else x - 0.5
        if x < width:
            return width * math.log(1 + x / curvature)
        return x - width + width * math.log(1 + width / curvature)

    loss = LossConfig(kind=kind, coordinates=unit)
    found = objective(Output(landmarks, ()), target, (), loss, size).total
    scale = 1 if unit == "pixels" else 1 / size
    assert found.item() == pytest.approx(scale * sum(map(expected, pixels.tolist())) / 2, rel=1e-12)
    found.backward()
    assert torch.isfinite(landmarks.grad).all()


def test_laplace_is_a_likelihood_of_both_coordinates() -> None:
    target = torch.rand(2, 3, 2, dtype=torch.float64)
    away = torch.rand(2, 3, 2, dtype=torch.float64) - 0.5
    spread = torch.rand(2, 3, dtype=torch.float64) + 0.1
    expected = 0.0
    for face, point, axis in itertools.product(range(2), range(3), range(2)):
        b = spread[face, point].item()
        density = math.exp(-abs(away[face, point, axis].item()) / b) / (2 * b)
        # But for the constant, the density of a point in the middle at the least spread.
        expected += math.log(1 / (2 * 0.001)) - math.log(density)
    loss = LossConfig(kind="laplace")
    found = objective(Output(target + away, (), spread=spread), target, (), loss).total
    assert found.item() == pytest.approx(expected / 2, rel=1e-12)
    with pytest.raises(ValueError, match="expected landmarks with a spread, found none"):
        objective(Output(target, ()), target, (), loss)


def test_a_spread_is_learned_where_the_error_has_one(run: Any) -> None:
    fields = ("model.spread=true", "train.loss.kind=laplace", "model.head=integral")
    assert run("spread", *fields) == 0
    for wrong in fields[:2]:
        with pytest.raises(ConfigError, match="a spread is learned by laplace, and by no other"):
            load_config("tiny", [wrong])


def test_a_sum_over_the_batch_is_that_of_all_parts() -> None:
    target = torch.rand(6, 3, 2, dtype=torch.float64)
    landmarks = torch.rand(6, 3, 2, dtype=torch.float64)
    loss = LossConfig(over_batch="sum")
    whole = objective(Output(landmarks, ()), target, (), loss).total
    parts = [
        objective(Output(a, ()), b, (), loss, parts=3).total
        for a, b in zip(landmarks.chunk(3), target.chunk(3), strict=True)
    ]
    torch.testing.assert_close(sum(parts) / 3, whole)


def test_a_dry_run_writes_nothing(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("plan", "--dry-run", "train.ema=0.9", "train.accumulate=2") == 0
    printed = capsys.readouterr().out
    assert "4 images: 1 process x 2 parts x 2" in printed
    assert "15 steps, 3 epochs of 5" in printed
    assert not (tmp_path / "plan").exists()
    kept = tmp_path / "cache"
    assert run("plan", "--dry-run", f"data.cache_dir={kept}") == 0
    assert not kept.exists()


def test_a_dry_run_that_gives_no_number_is_one_line(
    run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("plan", "--dry-run", "train.cocs.t=1e38", "train.cocs.g=1e38") == 1
    assert "is not finite in step 1 of the dry run: loss" in capsys.readouterr().err


def test_the_bar_shows_the_terms(run: Any, tmp_path: Path) -> None:
    assert run("terms", "train.epochs=1") == 0
    first = steps(tmp_path / "terms")[1]
    printed = in_words(first)
    assert printed.startswith(
        f"loss {first['loss']:.4f} (landmarks {first['landmarks']:.4f}, COCS "
    )
    assert printed.endswith(f", NME {first['nme']:.2f} %")
    assert printed.count("/") == 2


def test_single_epochs_are_kept(run: Any, tmp_path: Path) -> None:
    assert run("kept", "train.keep_epochs=2", "train.epochs=4") == 0
    kept = sorted(path.name for path in (tmp_path / "kept").glob("epoch-*.pt"))
    assert kept == ["epoch-0002.pt", "epoch-0004.pt"]
    assert load_checkpoint(tmp_path / "kept/epoch-0002.pt").epoch == 2


def test_a_damaged_last_checkpoint_gives_way_to_the_one_before(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("whole") == 0
    assert run("hurt", "train.epochs=2") == 0
    last = tmp_path / "hurt/last.pt"
    good = last.read_bytes()
    damaged = bytearray(good)
    weight = max(load_checkpoint(last).model.values(), key=torch.numel).numpy().tobytes()
    damaged[good.index(weight) + len(weight) // 2] ^= 1
    for content in (bytes(damaged), good[:1000], b""):
        last.write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged"):
            load_checkpoint(last)
        saved, source, wrong = load_last(tmp_path / "hurt")
        assert (source.name, saved.step) == ("previous.pt", 5)
        assert wrong is not None
        assert "last.pt" in wrong
    last.write_bytes(bytes(damaged))
    capsys.readouterr()
    assert run("hurt", "--resume") == 0
    printed = capsys.readouterr().err
    assert "damaged one" in printed
    assert "previous.pt instead" in printed
    assert "resuming after step 5" in printed
    assert (tmp_path / "hurt/damaged.pt").read_bytes() == bytes(damaged)
    assert losses(tmp_path / "hurt") == losses(tmp_path / "whole")


def test_both_damaged_say_so(run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("hurt", "train.epochs=2") == 0
    for name in ("last.pt", "previous.pt"):
        (tmp_path / "hurt" / name).write_bytes(b"nothing")
    assert run("hurt", "--resume") == 2
    assert "last.pt: expected a checkpoint of ccdn train" in capsys.readouterr().err


def test_a_full_disk_leaves_the_last_checkpoint(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written = []

    class Full:
        """A file on a disk that is full after some bytes."""

        def __init__(self, file: Any) -> None:
            self.file = file

        def write(self, content: Any) -> None:
            self.file.write(bytes(content[:100]))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    class Disk:
        def __init__(self, path: Path) -> None:
            self.path, self.real = path, atomic_write(path)

        def __enter__(self) -> Any:
            file = self.real.__enter__()
            if self.path.name == "last.pt":
                written.append(self.path)
                if len(written) == 3:
                    return Full(file)
            return file

        def __exit__(self, *error: Any) -> Any:
            return self.real.__exit__(*error)

    monkeypatch.setattr("ccdn.checkpoint.torch_file.atomic_write", Disk)
    assert run("full", "train.epochs=4") == 1
    printed = capsys.readouterr().err
    assert "No space left on device; the checkpoint before it is untouched" in printed
    monkeypatch.undo()
    assert load_checkpoint(tmp_path / "full/last.pt").epoch == 2
    assert [path.name for path in (tmp_path / "full").glob(".*.tmp")] == []
    assert run("full", "train.epochs=3", "--resume") == 0
    assert list(steps(tmp_path / "full")) == list(range(1, 16))


def test_another_number_of_threads_warns(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("a", "train.epochs=1") == 0
    last = tmp_path / "a/last.pt"
    saved = load_checkpoint(last)
    assert saved.threads == 1
    save_checkpoint(last, replace(saved, threads=3))
    assert run("a", "train.epochs=2", "--resume") == 0
    assert "the run had 3 torch threads, now 1" in capsys.readouterr().err
    assert run("a", "train.epochs=3", "--resume") == 0
    assert "torch threads" not in capsys.readouterr().err


def test_the_batch_that_gave_no_number_is_kept(
    face_folder: Path, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ccdn.config import resolve_data

    config: Config = load_config("tiny", [*small, f"data.root={face_folder}"])
    config.data = resolve_data(config.data)
    run = Trainer(plan_training(config, open_training_faces(config), tmp_path))
    monkeypatch.setattr(trainer_module, "learning_rate", lambda *_: math.inf)
    with pytest.raises(TrainingError, match=r"not finite in step 2 .*bad_batch\.pt holds"):
        run.fit()
    kept = torch.load(tmp_path / "bad_batch.pt", weights_only=True)
    assert kept["place"] == (0, 1)
    assert kept["images"].shape == (4, 3, 32, 32)
    assert kept["indices"].shape == (4,)
    assert not torch.isfinite(kept["model"]["head.weight"]).all()


def test_tensorboard_has_the_numbers_or_says_how(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        assert run("events", "train.epochs=1") == 0
        before = (tmp_path / "events/last.pt").read_bytes()
        assert run("events", "train.tensorboard=true", "--overwrite") == 2
        assert "pip install 'ccdn[tensorboard]'" in capsys.readouterr().err
        assert (tmp_path / "events/last.pt").read_bytes() == before
        assert run("events", "train.tensorboard=true", "--dry-run") == 2
        return
    assert run("events", "train.tensorboard=true", "train.epochs=1") == 0
    events = EventAccumulator(str(tmp_path / "events/events"))
    events.Reload()
    found = [(scalar.step, scalar.value) for scalar in events.Scalars("step/loss")]
    for (step, value), (number, record) in zip(
        found, steps(tmp_path / "events").items(), strict=True
    ):
        assert step == number
        assert value == pytest.approx(record["loss"], rel=1e-6)
    assert "samples" in events.Tags()["images"]
