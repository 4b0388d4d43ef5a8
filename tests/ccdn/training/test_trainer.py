"""The loop: it learns, resumes exactly where it was killed, and stops only for good reasons."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ccdn.checkpoint.load import load_checkpoint
from ccdn.checkpoint.state import Checkpoint, CheckpointError, load_weights
from ccdn.config import Config, load_config, resolve_data
from ccdn.data import read_pts, write_pts
from ccdn.evaluation.metrics import nme
from ccdn.inference.crops import predict_faces
from ccdn.models import build_model
from ccdn.plan.faces import TrainingFaces, open_training_faces
from ccdn.plan.training import plan_training
from ccdn.runtime import signals
from ccdn.training import resume
from ccdn.training.batches import BatchError
from ccdn.training.resume import finish
from ccdn.training.trainer import Interrupted, Trainer, TrainingError

# 20 faces in batches of 4: 5 steps an epoch, 15 in all.
KILL_AFTER = 9  # the last checkpoint is then of step 8, in the middle of the second epoch


def configure(folder: Path, small: list[str], *more: str) -> Config:
    own = ["data.augmentation=mild", "train.checkpoint_steps=4", f"data.root={folder}"]
    config = load_config("tiny", [*small, *own, *more])
    return replace(config, data=resolve_data(config.data))


def train(config: Config, out: Path, resume: bool = False, **options: Any) -> Trainer:
    checkpoint = load_checkpoint(out / "last.pt") if resume else None
    out.mkdir(exist_ok=True)
    trainer = Trainer(
        plan_training(config, open_training_faces(config), out, checkpoint), **options
    )
    trainer.fit()
    return trainer


def weights(out: Path) -> dict[str, torch.Tensor]:
    checkpoint = load_checkpoint(out / "last.pt")
    averaged = {f"averaged {k}": v for k, v in (checkpoint.averaged or {}).items()}
    return {**checkpoint.model, **averaged}


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def records(out: Path) -> list[dict[str, Any]]:
    """The log without what depends on the clock."""
    lines = (out / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [
        {k: v for k, v in r.items() if k not in ("seconds", "images_per_second", "waiting")}
        for r in found
    ]


MURDER = """
import os, signal, sys
from pathlib import Path
from ccdn.config import load_config
from ccdn.plan.faces import open_training_faces
from ccdn.plan.training import plan_training
from ccdn.training.trainer import Trainer

out, after = Path(sys.argv[1]), int(sys.argv[2])
config = load_config(out / "config.yaml")
def kill(step):
    if step == after:
        os.kill(os.getpid(), signal.SIGKILL)
Trainer(plan_training(config, open_training_faces(config), out), after_step=kill).fit()
"""


def train_and_kill(config: Config, out: Path) -> None:
    from ccdn.config import config_to_yaml

    out.mkdir()
    (out / "config.yaml").write_text(config_to_yaml(config))
    command = [sys.executable, "-c", MURDER, str(out), str(KILL_AFTER)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert finished.returncode == -signal.SIGKILL, finished.stderr


@pytest.fixture(scope="module")
def whole(face_folder: Path, small: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing stopped."""
    out = tmp_path_factory.mktemp("whole")
    train(configure(face_folder, small, "train.ema=0.9"), out)
    return out


@pytest.mark.parametrize("workers", [0, 1])
def test_a_killed_run_ends_with_the_same_weights(
    workers: int, whole: Path, face_folder: Path, small: list[str], tmp_path: Path
) -> None:
    config = configure(face_folder, small, "train.ema=0.9", f"train.workers={workers}")
    train_and_kill(config, tmp_path / "killed")
    halfway = load_checkpoint(tmp_path / "killed/last.pt")
    assert (halfway.step, halfway.epoch, halfway.step_in_epoch) == (8, 1, 3)
    assert not same_bits(weights(tmp_path / "killed"), weights(whole))
    # A line cut short, and one of a step that the checkpoint does not know.
    with (tmp_path / "killed/metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "step": 10, "loss": 1.0}\n{"kind": "st')
    train(config, tmp_path / "killed", resume=True)
    assert same_bits(weights(tmp_path / "killed"), weights(whole))
    assert records(tmp_path / "killed") == records(whole)


def test_the_loss_falls_and_the_log_says_so(
    face_folder: Path, small: list[str], tmp_path: Path
) -> None:
    more = ("data.augmentation=none", "train.epochs=20", "train.lr=2e-2")
    config = configure(face_folder, small, *more)
    train(config, tmp_path / "run")
    log = records(tmp_path / "run")
    epochs = [record for record in log if record["kind"] == "epoch"]
    assert [record["step"] for record in epochs] == [5 * (i + 1) for i in range(20)]
    assert epochs[-1]["landmarks"] < 0.5 * epochs[0]["landmarks"]
    steps = [record["step"] for record in log if record["kind"] == "step"]
    assert steps == list(range(2, 101, 2))
    assert (tmp_path / "run/curves.png").stat().st_size > 1000


def test_the_first_output_is_the_mean_shape_s_bias(
    face_folder: Path, small: list[str], tmp_path: Path
) -> None:
    config = configure(face_folder, small)
    faces = open_training_faces(config)
    trainer = Trainer(plan_training(config, faces, tmp_path))
    assert torch.equal(trainer.model.head.bias.detach().view(68, 2), faces.mean_shape)


def test_the_best_held_out_epoch_is_kept(
    face_folder: Path, small: list[str], tmp_path: Path
) -> None:
    more = ("data.holdout=0.2", "train.selection=holdout", "train.ema=0.8")
    config = configure(face_folder, small, *more)
    trainer = train(config, tmp_path / "run")
    assert len(trainer.plan.faces.crops) == 16
    scores = {r["at"]: r["holdout_nme"] for r in records(tmp_path / "run") if r["kind"] == "epoch"}
    best = load_checkpoint(tmp_path / "run/best.pt")
    assert len(scores) == 3
    assert scores[float(best.epoch)] == min(scores.values())
    holdout, mean = trainer.plan.faces.holdout, best.mean_shape.numpy()
    model = build_model(best.config.model)
    load_weights(model, best.weights(), tmp_path)
    found = predict_faces(model, holdout, mean)
    score = 100 * nme(found.predicted, found.truth).mean()
    assert scores[float(best.epoch)] == pytest.approx(score, rel=1e-6)
    held = {holdout.faces.face(i).name for i in range(4)}
    kept = {trainer.plan.faces.crops.faces.face(i).name for i in range(16)}
    assert len(held | kept) == 20


def test_the_weights_to_use_are_the_best_epoch_s(
    face_folder: Path, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter((3.0, 1.0, 2.0))
    monkeypatch.setattr(Trainer, "_holdout_nme", lambda self: next(scores))
    config = configure(face_folder, small, "data.holdout=0.2", "train.selection=holdout")
    out = tmp_path / "run"
    train(config, out)
    assert load_checkpoint(out / "last.pt").epoch == 3
    for _ in range(2):  # written by the run, and by one that finds them missing
        portable = load_checkpoint(out / "weights.safetensors")
        assert portable.epoch == 2
        assert same_bits(portable.model, load_checkpoint(out / "best.pt").model)
        (out / "weights.safetensors").unlink()
        assert finish(out, load_checkpoint(out / "last.pt"))
    assert not finish(out, load_checkpoint(out / "last.pt"))


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_stops(
    which: signal.Signals, whole: Path, face_folder: Path, small: list[str], tmp_path: Path
) -> None:
    config = configure(face_folder, small, "train.ema=0.9")
    before = signal.getsignal(which)

    def interrupt(step: int) -> None:
        if step == 7:
            os.kill(os.getpid(), which)

    with pytest.raises(Interrupted) as stop:
        train(config, tmp_path / "run", after_step=interrupt)
    assert stop.value.signum == which
    assert signal.getsignal(which) is before
    saved = load_checkpoint(tmp_path / "run/last.pt")
    assert saved.step in (7, 8)  # the handler may run a step later
    train(config, tmp_path / "run", resume=True)
    assert same_bits(weights(tmp_path / "run"), weights(whole))


def test_signals_that_follow_are_the_same_request(
    face_folder: Path, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a batch system and torchrun send them; only a late Ctrl-C does not wait for the save."""
    config = configure(face_folder, small)

    def interrupt(step: int) -> None:
        if step == 6:
            for which in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGINT):
                os.kill(os.getpid(), which)

    with pytest.raises(Interrupted) as stop:
        train(config, tmp_path / "run", after_step=interrupt)
    assert stop.value.signum == signal.SIGTERM
    assert load_checkpoint(tmp_path / "run/last.pt").step in (6, 7)
    monkeypatch.setattr(signals, "SAME_REQUEST", 0.0)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "late", after_step=interrupt)
    assert load_checkpoint(tmp_path / "late/last.pt").step == 5  # the end of an epoch


def test_a_signal_in_the_last_step_finds_the_run_done(
    whole: Path, face_folder: Path, small: list[str], tmp_path: Path
) -> None:
    last = load_checkpoint(whole / "last.pt").step

    def interrupt(step: int) -> None:
        if step == last:
            os.kill(os.getpid(), signal.SIGINT)

    train(configure(face_folder, small, "train.ema=0.9"), tmp_path / "run", after_step=interrupt)
    assert load_checkpoint(tmp_path / "run/weights.safetensors").step == last


class _Poisoned:
    """Crops of which one face's landmarks become NaN in the second epoch."""

    def __init__(self, crops: Any) -> None:
        self.crops, self.epoch = crops, 0

    def __len__(self) -> int:
        return len(self.crops)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.crops.set_epoch(epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.crops[index]
        if self.epoch == 1 and index == 6:
            item["landmarks"] = torch.full_like(item["landmarks"], float("nan"))
        return item


def test_a_loss_that_is_not_finite_stops_the_run(
    face_folder: Path, small: list[str], tmp_path: Path
) -> None:
    config = configure(face_folder, small)
    faces = open_training_faces(config)
    faces = TrainingFaces(**{**vars(faces), "crops": _Poisoned(faces.crops)})
    with pytest.raises(TrainingError, match=r"not finite in step \d+ \(epoch 2\)") as error:
        Trainer(plan_training(config, faces, tmp_path)).fit()
    indices = str(error.value).split("indices are [")[1].split("]")[0]
    assert "6" in indices.split(", ")
    saved = load_checkpoint(tmp_path / "last.pt")
    assert saved.epoch == 1
    assert all(torch.isfinite(value).all() for value in saved.model.values())


def test_a_face_that_cannot_be_read_is_named(
    face_folder: Path, small: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "faces"
    folder.mkdir()
    for path in face_folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "face03.png").write_bytes(b"not a picture")
    with pytest.raises(BatchError, match=r"face03\.png: not an image"):
        train(configure(folder, small), tmp_path / "run")


def test_another_number_of_faces_cannot_resume(
    face_folder: Path, small: list[str], tmp_path: Path
) -> None:
    train(configure(face_folder, small, "train.epochs=1"), tmp_path / "run")
    config = configure(face_folder, small, "data.limit=16")
    with pytest.raises(CheckpointError, match="began with 20 training faces, found 16"):
        train(config, tmp_path / "run", resume=True)


def test_as_many_other_faces_cannot_resume(
    face_folder: Path, small: list[str], tmp_path: Path
) -> None:
    train(configure(face_folder, small, "train.epochs=1"), tmp_path / "run")
    others = tmp_path / "others"
    others.mkdir()
    for index, path in enumerate(sorted(face_folder.iterdir())):
        (others / path.name).write_bytes(path.read_bytes())
        if path.suffix == ".pts":
            moved = read_pts(path)
            moved[0] += 0.02 * index  # of a picture of 96 pixels
            write_pts(others / path.name, moved)
    with pytest.raises(CheckpointError, match="began with other faces, as many: the mean"):
        train(configure(others, small), tmp_path / "run", resume=True)


def test_another_configuration_cannot_resume(face_folder: Path, small: list[str]) -> None:
    source = Path("last.pt")

    def check_resumable(wanted: Config, saved: Config, source: Path) -> None:
        resume.check_resumable(wanted, Checkpoint(saved, {}, torch.zeros(68, 2)), 1, source)

    saved = configure(face_folder, small, "train.schedule=step")
    free = ("train.workers=1", "train.checkpoint_steps=1", "train.epochs=99", "data.cache=false")
    check_resumable(configure(face_folder, small, "train.schedule=step", *free), saved, source)
    changed = configure(face_folder, small, "train.schedule=step", "train.lr=1", "model.orders=1")
    with pytest.raises(
        CheckpointError, match=r"last\.pt.*model\.orders was 2, now 1; train\.lr was"
    ):
        check_resumable(changed, saved, source)
    cosine = configure(face_folder, small, "train.schedule=cosine")
    longer = configure(face_folder, small, "train.schedule=cosine", "train.epochs=99")
    with pytest.raises(CheckpointError, match=r"train\.epochs was 3, now 99"):
        check_resumable(longer, cosine, source)


def test_a_batch_of_each_process_resumes_with_as_many_images(
    face_folder: Path, small: list[str]
) -> None:
    saved = configure(face_folder, small, "train.batch_scope=process")
    checkpoint = Checkpoint(saved, {}, torch.zeros(68, 2), processes=2)
    same = configure(face_folder, small, "train.batch_size=8")
    resume.check_resumable(saved, checkpoint, 2, Path("last.pt"))
    resume.check_resumable(same, checkpoint, 1, Path("last.pt"))
    with pytest.raises(
        CheckpointError,
        match=r"began with 2 processes, found 1;.*train\.batch_scope=global train\.batch_size=8",
    ):
        resume.check_resumable(saved, checkpoint, 1, Path("last.pt"))
    scaled = configure(face_folder, small, "train.batch_scope=process", "train.lr_scaling=linear")
    checkpoint = Checkpoint(scaled, {}, torch.zeros(68, 2), processes=2)
    with pytest.raises(CheckpointError, match=r"train\.lr_scaling was 'linear', now 'none'"):
        resume.check_resumable(same, checkpoint, 1, Path("last.pt"))
