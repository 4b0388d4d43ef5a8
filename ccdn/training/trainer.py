"""The training loop: steps, records, checkpoints, and going on where a run stopped."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from ccdn.config import Config, ConfigError, TrainConfig, differences
from ccdn.data.layouts import layout_or_none
from ccdn.evaluation.metrics import best_norm, nme
from ccdn.evaluation.predictions import predict_faces
from ccdn.models import LEVELS, build_model, objective
from ccdn.progress import Progress
from ccdn.training.batches import Batch, Place, batches, steps_per_epoch
from ccdn.training.checkpoint import Checkpoint, CheckpointError, load_weights, save_checkpoint
from ccdn.training.faces import TrainingFaces
from ccdn.training.log import MetricsLog, draw_curves
from ccdn.training.schedule import AveragedWeights, learning_rate

CURVES_EVERY = 20.0  # seconds between two drawings of the curves


class TrainingError(RuntimeError):
    """Training cannot go on; the message is one line."""


class Interrupted(Exception):  # noqa: N818  (no error: the user asked for it)
    """A signal ended the run after a checkpoint was saved; `signum` is the signal."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class Trainer:
    """One run in one folder: last.pt, best.pt (selection: holdout), metrics.jsonl, curves.png.

    All that is random follows from (seed, epoch, index) and (seed, step), so a run that goes on
    from a checkpoint ends, on one machine and thread count, with the weights of one that never
    stopped. resume: the checkpoint to go on from. after_step is called with the number of steps
    done. Raises CheckpointError when the checkpoint does not fit the faces or the model,
    ConfigError for a model that cannot be built.
    """

    def __init__(
        self,
        config: Config,
        faces: TrainingFaces,
        out: Path,
        resume: Checkpoint | None = None,
        after_step: Callable[[int], None] | None = None,
    ) -> None:
        self.config = config
        self.faces = faces
        self.out = Path(out)
        self.after_step = after_step
        self.device = pick_device(config.train.device)
        if config.train.threads:
            torch.set_num_threads(config.train.threads)
        torch.manual_seed(config.train.seed)
        try:
            self.model = build_model(config.model)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        self.model.set_mean_shape(faces.mean_shape)
        self.model.to(self.device)
        if config.train.channels_last:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = make_optimizer(self.model, config.train)
        self.averaged: AveragedWeights | None = None
        if config.train.ema:
            self.averaged = AveragedWeights(self.model, config.train.ema)
        self.steps = steps_per_epoch(len(faces.crops), config.train.batch_size)
        self._batch_size = min(config.train.batch_size, len(faces.crops))
        self.place = Place(0, 0)
        self.step = 0
        self.running: dict[str, float] = {}
        self.epoch_sums: dict[str, float] = {}
        self.best: dict[str, float] = {}
        self.saved_step = -1
        if resume is not None:
            self._load(resume)
        self._eyes = _eye_indices(config.model.points)
        self._stop = 0

    def fit(self) -> None:
        """Train to the last epoch.

        Raises Interrupted after SIGINT or SIGTERM (a checkpoint is saved), TrainingError for a loss
        that is not finite (the last good checkpoint stays), BatchError for a face that cannot be
        read.
        """
        train = self.config.train
        self.log = MetricsLog(self.out / "metrics.jsonl", self.step if self.step else None)
        self.progress = Progress(train.epochs * self.steps, self.step, self._batch_size)
        self._curves_drawn = self._epoch_start = self._record_start = time.monotonic()
        self._record_step = self.step
        stream = batches(
            self.faces.crops, train.batch_size, train.seed, self.place, train.epochs, train.workers
        )
        self.model.train()
        try:
            with self._signals():
                for batch in stream:
                    self._one_step(batch)
                    if self.place.step == 0:
                        self._end_epoch()
                    elif train.checkpoint_steps and self.step % train.checkpoint_steps == 0:
                        self.save()
                    if self.after_step is not None:
                        self.after_step(self.step)
                    if self._stop:
                        if self.saved_step != self.step:
                            self.save()
                        raise Interrupted(self._stop)
        finally:
            stream.close()
            self.progress.close()
            self.log.close()
        draw_curves(self.out / "metrics.jsonl", self.out / "curves.png")

    def checkpoint(self) -> Checkpoint:
        """The state after the steps done so far; its tensors are the live ones."""
        return Checkpoint(
            config=self.config,
            model=self.model.state_dict(),
            mean_shape=self.faces.mean_shape,
            averaged=None if self.averaged is None else self.averaged.weights,
            optimizer=self.optimizer.state_dict(),
            epoch=self.place.epoch,
            step_in_epoch=self.place.step,
            step=self.step,
            faces=len(self.faces.crops),
            running=self.running,
            epoch_sums=self.epoch_sums,
            best=self.best,
            data=self.faces.description,
            threads=torch.get_num_threads(),
        )

    def save(self, name: str = "last.pt") -> None:
        """Write a checkpoint; the log's lines up to it reach the disk first."""
        self.log.sync()
        try:
            save_checkpoint(self.out / name, self.checkpoint())
        except OSError as error:
            raise TrainingError(
                f"{self.out / name}: could not be written: {error.strerror or error}; "
                + (
                    "the checkpoint before it is untouched"
                    if (self.out / name).exists()
                    else "there was none before it"
                )
            ) from error
        if name == "last.pt":
            self.saved_step = self.step

    def _one_step(self, batch: Batch) -> None:
        train = self.config.train
        # For layers that draw, such as dropout: what they draw depends on the step only.
        torch.manual_seed((train.seed * 1_000_003 + self.step) % 2**63)
        images = batch.images.to(self.device, non_blocking=True).float().div_(255)
        if train.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        target = batch.landmarks.to(self.device, non_blocking=True)
        rate = learning_rate(train, self.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

        output = self.model(images)
        loss = objective(
            output, target, train.cocs.gammas(), train.loss, self.config.model.input_size
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), train.clip or math.inf)
        terms = {"loss": loss.total.detach(), "landmarks": loss.landmarks.detach()}
        terms.update(zip((f"cocs_{level}" for level in LEVELS), loss.cocs.detach(), strict=False))
        terms["gradient"] = norm
        error = self._train_nme(output.landmarks.detach(), target)
        if error is not None:
            terms["nme"] = error
        values = dict(zip(terms, torch.stack(list(terms.values())).tolist(), strict=True))
        if not (math.isfinite(values["loss"]) and math.isfinite(values["gradient"])):
            raise TrainingError(self._not_finite(batch, values))
        self.optimizer.step()
        self.step += 1
        if self.averaged is not None:
            self.averaged.update(self.model, self.step)
        done = batch.place.step + 1
        self.place = (
            Place(batch.place.epoch + 1, 0)
            if done == self.steps
            else Place(batch.place.epoch, done)
        )
        _add(self.running, values)
        _add(self.epoch_sums, values)
        at = round(self.step / self.steps, 4)
        if self.step % train.log_steps == 0:
            self._record_steps(at, rate)
        shown = f", NME {values['nme']:.2f} %" if "nme" in values else ""
        text = f"epoch {batch.place.epoch + 1}/{train.epochs}, loss {values['loss']:.4f}{shown}"
        self.progress.step(self.step, text)

    def _record_steps(self, at: float, rate: float) -> None:
        now = time.monotonic()
        images = (self.step - self._record_step) * self._batch_size
        record = {"kind": "step", "step": self.step, "at": at, "lr": rate, **_mean(self.running)}
        record["images_per_second"] = round(images / max(1e-9, now - self._record_start), 1)
        self.log.write(record)
        self._record_start, self._record_step = now, self.step
        self.running = {}

    def _end_epoch(self) -> None:
        train = self.config.train
        epoch = self.place.epoch  # epochs done
        means = _mean(self.epoch_sums)
        record: dict[str, Any] = {"kind": "epoch", "step": self.step, "at": float(epoch), **means}
        last = epoch == train.epochs
        every = train.eval_epochs or (1 if train.selection == "holdout" else 0)
        improved = False
        if self.faces.holdout is not None and every and (epoch % every == 0 or last):
            score = self._holdout_nme()
            record["holdout_nme"] = score
            if not self.best or score < self.best["holdout_nme"]:
                self.best = {"holdout_nme": score, "epoch": float(epoch)}
                improved = True
        now = time.monotonic()
        record["seconds"] = round(now - self._epoch_start, 2)
        self._epoch_start = now
        self.epoch_sums = {}
        self.log.write(record)
        if improved and train.selection == "holdout":
            self.save("best.pt")
        self.save()
        parts = [f"epoch {epoch}/{train.epochs}", f"loss {means['loss']:.4f}"]
        parts += [f"NME {means['nme']:.2f} %"] if "nme" in means else []
        parts += [f"held out {record['holdout_nme']:.2f} %"] if "holdout_nme" in record else []
        self.progress.say(", ".join(parts))
        if now - self._curves_drawn > CURVES_EVERY:
            draw_curves(self.out / "metrics.jsonl", self.out / "curves.png")
            self._curves_drawn = time.monotonic()

    def _holdout_nme(self) -> float:
        assert self.faces.holdout is not None
        own = None
        if self.averaged is not None:
            own = {name: value.clone() for name, value in self.model.state_dict().items()}
            self.model.load_state_dict(self.averaged.weights)
        result = predict_faces(
            self.model, self.faces.holdout, self.faces.mean_shape.numpy(), self.device
        )
        if own is not None:
            self.model.load_state_dict(own)
        norm = best_norm(self.config.model.points)
        errors = nme(result.predicted, result.truth, norm, self.faces.holdout_boxes)
        return float(100 * errors.mean())

    def _train_nme(self, landmarks: Tensor, target: Tensor) -> Tensor | None:
        """Mean inter-ocular NME of a batch in %; None for a layout without eye corners."""
        if self._eyes is None:
            return None
        left, right = self._eyes
        distance = (target[:, left] - target[:, right]).norm(dim=1).clamp_min(1e-6)
        return 100 * ((landmarks - target).norm(dim=2).mean(1) / distance).mean()

    def _not_finite(self, batch: Batch, values: dict[str, float]) -> str:
        what = "loss" if not math.isfinite(values["loss"]) else "gradient"
        kept = "no checkpoint was saved yet"
        if (self.out / "last.pt").exists():
            kept = f"{self.out / 'last.pt'} holds the last good state"
        return (
            f"the {what} is not finite in step {self.step + 1} (epoch {batch.place.epoch + 1}):"
            f" loss {values['loss']}, gradient norm {values['gradient']}; the batch's indices are"
            f" {batch.indices.tolist()}; {kept}; a lower train.lr or train.clip=1 may help"
        )

    def _load(self, checkpoint: Checkpoint) -> None:
        source = self.out / "last.pt"
        if checkpoint.optimizer is None:
            raise CheckpointError(f"{source}: holds weights only; a run cannot go on from it")
        if checkpoint.faces != len(self.faces.crops):
            raise CheckpointError(
                f"{source}: the run began with {checkpoint.faces} training faces, found"
                f" {len(self.faces.crops)}"
            )
        load_weights(self.model, checkpoint.model, source)
        try:
            self.optimizer.load_state_dict(checkpoint.optimizer)
        except (ValueError, KeyError) as error:
            raise CheckpointError(f"{source}: its optimiser does not fit: {error}") from error
        if (checkpoint.averaged is None) != (self.averaged is None):
            raise CheckpointError(f"{source}: train.ema is on in one of run and checkpoint only")
        if self.averaged is not None and checkpoint.averaged is not None:
            for name, value in checkpoint.averaged.items():
                self.averaged.weights[name].copy_(value)
        self.place = Place(checkpoint.epoch, checkpoint.step_in_epoch)
        self.step = self.saved_step = checkpoint.step
        self.running = dict(checkpoint.running)
        self.epoch_sums = dict(checkpoint.epoch_sums)
        self.best = dict(checkpoint.best)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Turn SIGINT or SIGTERM into a stop after the current step; a second one stops at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {which: signal.getsignal(which) for which in (signal.SIGINT, signal.SIGTERM)}

        def restore() -> None:
            for which, handler in previous.items():
                signal.signal(which, handler)

        def stop(signum: int, frame: FrameType | None) -> None:
            self._stop = signum
            restore()

        for which in previous:
            signal.signal(which, stop)
        try:
            yield
        finally:
            restore()


def pick_device(name: str) -> torch.device:
    """The device of a name; auto is the first CUDA device, or the CPU. Raises ConfigError for one
    that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"train.device: expected auto, cpu or cuda, found {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise ConfigError(f"train.device is {name!r}, but torch finds {found} CUDA devices")
    return device


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Adam, AdamW or SGD over all weights; vectors (biases, normalisations) are not decayed."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=True)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=config.lr, betas=(config.betas[0], config.betas[1]), fused=True)


# Fields that may differ between a checkpoint and the run that goes on from it.
_FREE = {
    "train.device",
    "train.workers",
    "train.threads",
    "train.checkpoint_steps",
    "train.out",
    "data.root",
    "data.eval_splits",
    "data.cache",
}


def check_resumable(wanted: Config, saved: Config, source: Path) -> None:
    """Raise CheckpointError, naming the fields, when a run with `wanted` cannot go on from `saved`.

    train.epochs may change where the rate does not depend on it (schedule step or constant).
    """
    free = set(_FREE)
    if wanted.train.schedule in ("step", "constant"):
        free.add("train.epochs")
    found = differences(saved, wanted)
    changed = [key for key in found if key not in free]
    if changed:
        named = "; ".join(
            f"{key} was {found[key][0]!r}, now {found[key][1]!r}" for key in changed[:3]
        )
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise CheckpointError(f"{source}: cannot go on with another configuration: {named}{more}")


def _eye_indices(points: int) -> tuple[int, int] | None:
    known = layout_or_none(points)
    return None if known is None else known.ocular


def _add(sums: dict[str, float], values: dict[str, float]) -> None:
    sums["count"] = sums.get("count", 0.0) + 1
    for key, value in values.items():
        sums[key] = sums.get(key, 0.0) + value


def _mean(sums: dict[str, float]) -> dict[str, float]:
    count = sums.get("count", 0.0)
    return {key: round(value / count, 7) for key, value in sums.items() if key != "count"}
