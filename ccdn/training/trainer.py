"""The training loop: steps, epochs, checkpoints, and resuming where a run stopped."""

from __future__ import annotations

import math
import signal
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from typing import Any, NoReturn, TypeVar

import torch

from ccdn.checkpoint.safetensors_file import save_portable
from ccdn.checkpoint.state import Checkpoint, CheckpointError, check_weights, load_weights
from ccdn.checkpoint.torch_file import save_checkpoint
from ccdn.data import CropDataset
from ccdn.evaluation.metrics import best_norm, nme
from ccdn.inference.distributed import predict_shared
from ccdn.models import build_model
from ccdn.plan.batching import Place
from ccdn.plan.training import TrainingPlan
from ccdn.runtime.errors import ConfigError
from ccdn.runtime.interrupt import patience
from ccdn.runtime.signals import StopRequest
from ccdn.training.batches import Batch, batches
from ccdn.training.device_crops import DeviceCrops
from ccdn.training.distribution import to_device, train_mode
from ccdn.training.optimizer import make_optimizer, rate_factor
from ccdn.training.precision import use_deterministic_operators
from ccdn.training.records import Records, check_tensorboard, in_words
from ccdn.training.resume import BEST, LAST, WEIGHTS, check_fits, save_last, to_use, what_changed
from ccdn.training.schedule import AveragedWeights, learning_rate
from ccdn.training.start import start_from
from ccdn.training.step import NotFiniteError, Step
from ccdn.training.workers import WorkerError

Item = TypeVar("Item")

# Seconds that one of several processes that was asked to stop waits for the others: no step takes
# that long.
STEP_PATIENCE = 60.0


class TrainingError(RuntimeError):
    """Training cannot continue; the message is one line."""


class Interrupted(Exception):  # noqa: N818  (no error: the user asked for it)
    """A signal ended the run after a checkpoint was saved; `signum` is the signal."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class Trainer:
    """One run in one folder, on one process or on several that do the same steps together.

    The folder gets last.pt and the one before it, previous.pt; best.pt (selection: holdout);
    epoch-0010.pt ... (keep_epochs); at the end weights.safetensors; metrics.jsonl, curves.png and
    samples.png. The first process alone writes.

    All random draws follow from (seed, epoch, index) and (seed, step, process), so on one machine
    and thread count a run that resumes from a checkpoint ends with the weights of one that never
    stopped. after_step is called with the number of steps done. Raises CheckpointError if the
    plan's checkpoint does not fit the faces or the model, or the weights of train.init do not fit
    the model, and ConfigError for a model that cannot be built.
    """

    def __init__(self, plan: TrainingPlan, after_step: Callable[[int], None] | None = None) -> None:
        self.plan = plan
        self.after_step = after_step
        train = plan.config.train
        if train.threads:
            torch.set_num_threads(train.threads)
        use_deterministic_operators(train)
        if train.tensorboard and plan.processes.first:
            check_tensorboard()
        torch.manual_seed(train.seed)
        try:
            self.model = build_model(plan.config.model)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        self.model.set_mean_shape(plan.faces.mean_shape)
        self.start = ""  # what train.init copied, in words
        if train.init and plan.resume is None:
            self.start = start_from(self.model, plan.config)
        to_device(self.model, train, plan.device, plan.processes)
        self.optimizer = make_optimizer(self.model, train)
        self.averaged = AveragedWeights(self.model, train.ema) if train.ema else None
        self.crops: CropDataset | DeviceCrops = plan.faces.crops
        if plan.config.data.on_device:
            self.crops = DeviceCrops(plan.faces.crops, plan.device)
        self.place = Place(0, 0)
        self.step = 0
        self.running: dict[str, float] = {}
        self.epoch_sums: dict[str, float] = {}
        self.best: dict[str, float] = {}
        self.saved_step = -1
        self.do_step = Step(self.model, self.optimizer, plan)
        if plan.resume is not None:
            self._load(plan.resume)
        self._stop = StopRequest()
        self._waited = 0.0

    def fit(self) -> None:
        """Train to the last epoch.

        Raises Interrupted after SIGINT or SIGTERM (a checkpoint is saved), TrainingError for a loss
        that is not finite (the last good checkpoint stays, and the batch is saved next to it),
        BatchError for a face that cannot be read. TrainingError, too, for a process preparing
        batches that has ended; a checkpoint is saved first.
        """
        train = self.plan.config.train
        total = self.plan.total
        self.records = Records(
            self.plan.out,
            self.step,
            total,
            self.plan.batch_size,
            train.tensorboard,
            self.plan.processes.first,
        )
        self._epoch_start = self._record_start = time.monotonic()
        self._record_step = self.step
        stream = self.batches()
        train_mode(self.model, train)
        try:
            with self._stop.listen(), patience(self._patience()):
                for batch in self._timed(stream):
                    self._one_step(batch)
                    if self.place.step == 0:
                        self._end_epoch()
                    elif train.checkpoint_steps and self.step % train.checkpoint_steps == 0:
                        self.save()
                    if self.after_step is not None:
                        self.after_step(self.step)
                    # A request that comes in the last step finds the run at its end.
                    stop = self._stop.agreed(self.plan.processes, self.plan.device)
                    if stop and self.place.epoch < train.epochs:
                        self._interrupted()
                if self.place.epoch < train.epochs:  # the request came while it waited for a batch
                    self._interrupted()
            self.records.draw(self.step, self.do_step.sample, always=True)
            if self.plan.processes.first:
                save_portable(self.plan.out / WEIGHTS, to_use(self.plan.out, self.checkpoint()))
        except WorkerError as error:
            self._save_step()
            raise TrainingError(
                f"{error}; {self._kept()}: --resume continues from there"
            ) from error
        finally:
            stream.close()
            self.records.close()

    def batches(self) -> Generator[Batch, None, None]:
        """This process's part of every batch from where the run is."""
        train = self.plan.config.train
        return batches(
            self.crops,
            self.plan.batch_size,
            train.seed,
            self.place,
            train.epochs,
            train.workers,
            self.plan.share,
            lambda: self._stop.ends_a_wait(self.plan.processes),
        )

    def checkpoint(self) -> Checkpoint:
        """The state after the steps done so far; its tensors are the live ones."""
        return Checkpoint(
            config=self.plan.config,
            model=self.model.state_dict(),
            mean_shape=self.plan.faces.mean_shape,
            averaged=None if self.averaged is None else self.averaged.weights,
            optimizer=self.optimizer.state_dict(),
            scaler=self.do_step.scaler.state_dict(),
            epoch=self.place.epoch,
            step_in_epoch=self.place.step,
            step=self.step,
            faces=len(self.plan.faces.crops),
            running=self.running,
            epoch_sums=self.epoch_sums,
            best=self.best,
            data=self.plan.faces.description,
            threads=torch.get_num_threads(),
            processes=self.plan.processes.size,
        )

    def save(self, name: str = LAST) -> None:
        """Write a checkpoint; the log's lines up to it reach the disk first."""
        if not self.plan.processes.first:
            return
        self.records.sync()
        try:
            if name == LAST:
                save_last(self.plan.out, self.checkpoint())
            else:
                save_checkpoint(self.plan.out / name, self.checkpoint())
        except OSError as error:
            raise TrainingError(
                f"{self.plan.out / name}: could not be written: {error.strerror or error}; "
                + (
                    "the checkpoint before it is untouched"
                    if (self.plan.out / name).exists()
                    else "there was none before it"
                )
            ) from error
        if name == LAST:
            self.saved_step = self.step

    def _patience(self) -> float:
        """Seconds that a step may take in which no signal is heeded: alone it ends some time."""
        return math.inf if self.plan.processes.group is None else STEP_PATIENCE

    def _save_step(self) -> None:
        if self.saved_step != self.step:
            self.save()

    def _interrupted(self) -> NoReturn:
        self._save_step()
        raise Interrupted(self._stop.signum or signal.SIGTERM)

    def _one_step(self, batch: Batch) -> None:
        train = self.plan.config.train
        rate = learning_rate(train, self.step, self.plan.steps)
        rate *= rate_factor(train, self.plan.processes.size)
        try:
            values = self.do_step(batch, self.step, rate)
        except NotFiniteError as error:
            raise TrainingError(self._not_finite(batch, error)) from error
        self.step += 1
        if self.averaged is not None:
            self.averaged.update(self.model, self.step)
        done = batch.place.step + 1
        self.place = (
            Place(batch.place.epoch + 1, 0)
            if done == self.plan.steps
            else Place(batch.place.epoch, done)
        )
        _add(self.running, values)
        _add(self.epoch_sums, values)
        if self.step % train.log_steps == 0:
            self._record_steps(rate)
        text = f"epoch {batch.place.epoch + 1}/{train.epochs}, {in_words(values)}"
        self.records.show(self.step, text)

    def _record_steps(self, rate: float) -> None:
        now = time.monotonic()
        seconds = max(1e-9, now - self._record_start)
        images = (self.step - self._record_step) * self.plan.batch_size
        self.records.write(
            {
                "kind": "step",
                "step": self.step,
                "at": round(self.step / self.plan.steps, 4),
                "lr": rate,
                **_mean(self.running),
                "images_per_second": round(images / seconds, 1),
                # The share of the time in which this process had no batch to work on.
                "waiting": round(self._waited / seconds, 4),
            }
        )
        self._record_start, self._record_step, self._waited = now, self.step, 0.0
        self.running = {}

    def _end_epoch(self) -> None:
        train = self.plan.config.train
        epoch = self.place.epoch  # epochs done
        means = _mean(self.epoch_sums)
        record: dict[str, Any] = {"kind": "epoch", "step": self.step, "at": float(epoch), **means}
        last = epoch == train.epochs
        every = train.eval_epochs or (1 if train.selection == "holdout" else 0)
        improved = False
        if self.plan.faces.holdout is not None and every and (epoch % every == 0 or last):
            score = self._holdout_nme()
            record["holdout_nme"] = score
            if not self.best or score < self.best["holdout_nme"]:
                self.best = {"holdout_nme": score, "epoch": float(epoch)}
                improved = True
        now = time.monotonic()
        record["seconds"] = round(now - self._epoch_start, 2)
        self._epoch_start = now
        self.epoch_sums = {}
        self.records.write(record)
        if improved and train.selection == "holdout":
            self.save(BEST)
        if train.keep_epochs and epoch % train.keep_epochs == 0:
            self.save(f"epoch-{epoch:04}.pt")
        self.save()
        parts = [f"epoch {epoch}/{train.epochs}", f"loss {means['loss']:.4f}"]
        parts += [f"NME {means['nme']:.2f} %"] if "nme" in means else []
        parts += [f"held out {record['holdout_nme']:.2f} %"] if "holdout_nme" in record else []
        self.records.say(", ".join(parts))
        self.records.draw(self.step, self.do_step.sample)

    def _holdout_nme(self) -> float:
        """NME of the held-out faces in %, each process predicting its share of them."""
        holdout, boxes = self.plan.faces.holdout, self.plan.faces.holdout_boxes
        assert holdout is not None
        assert boxes is not None
        # Statistics that are not synchronised are each process's own; the first one's are saved.
        own = {name: value.clone() for name, value in self.model.state_dict().items()}
        if self.averaged is not None:
            self.model.load_state_dict(self.averaged.weights)
        self.plan.processes.same_buffers(self.model)
        found = predict_shared(
            self.plan.processes,
            self.model,
            holdout,
            self.plan.faces.mean_shape.numpy(),
            self.plan.device,
        )
        self.model.load_state_dict(own)
        train_mode(self.model, self.plan.config.train)
        norm = best_norm(self.plan.config.model.points)
        return 100 * float(nme(found.predicted, found.truth, norm, boxes).mean())

    def _not_finite(self, batch: Batch, error: NotFiniteError) -> str:
        name = (
            "bad_batch.pt"
            if self.plan.processes.first
            else f"bad_batch.{self.plan.processes.rank}.pt"
        )
        self.plan.out.mkdir(parents=True, exist_ok=True)
        torch.save(
            {**batch._asdict(), "place": tuple(batch.place), "model": self.model.state_dict()},
            self.plan.out / name,
        )
        return (
            f"the {error.what} is not finite in step {self.step + 1} (epoch"
            f" {batch.place.epoch + 1}): loss {error.values['loss']}, gradient norm"
            f" {error.values['gradient']}; the batch's indices are {batch.indices.tolist()};"
            f" {self.plan.out / name} holds the batch and the weights that met it; {self._kept()};"
            " a lower train.lr or train.clip=1 may help"
        )

    def _kept(self) -> str:
        """What there is of the run on the disk, in words."""
        if (self.plan.out / LAST).exists():
            return f"{self.plan.out / LAST} holds the last good state"
        return "no checkpoint was saved yet"

    def _load(self, checkpoint: Checkpoint) -> None:
        source = self.plan.out / LAST
        check_fits(checkpoint, self.plan.config, self.plan.faces, self.plan.processes.size, source)
        load_weights(self.model, checkpoint.model, source)
        assert checkpoint.optimizer is not None
        try:
            self.optimizer.load_state_dict(checkpoint.optimizer)
        except (ValueError, KeyError) as error:
            raise CheckpointError(f"{source}: its optimiser does not fit: {error}") from error
        if self.do_step.scaler.is_enabled() and checkpoint.scaler:
            self.do_step.scaler.load_state_dict(checkpoint.scaler)
        if (checkpoint.averaged is None) != (self.averaged is None):
            raise CheckpointError(f"{source}: train.ema is on in one of run and checkpoint only")
        if self.averaged is not None and checkpoint.averaged is not None:
            check_weights(self.averaged.weights, checkpoint.averaged, source)
            for name, value in checkpoint.averaged.items():
                self.averaged.weights[name].copy_(value)
        self.place = Place(checkpoint.epoch, checkpoint.step_in_epoch)
        self.step = self.saved_step = checkpoint.step
        self.running = dict(checkpoint.running)
        self.epoch_sums = dict(checkpoint.epoch_sums)
        self.best = dict(checkpoint.best)
        if self.plan.processes.first:
            size = self.plan.processes.size
            for line in what_changed(checkpoint, torch.get_num_threads(), size):
                warnings.warn(line, stacklevel=2)

    def _timed(self, stream: Iterator[Item]) -> Iterator[Item]:
        """The items of a stream, adding the time it takes to get them to `_waited`."""
        while True:
            start = time.monotonic()
            try:
                item = next(stream)
            except StopIteration:
                return
            self._waited += time.monotonic() - start
            yield item


def _add(sums: dict[str, float], values: dict[str, float]) -> None:
    sums["count"] = sums.get("count", 0.0) + 1
    for key, value in values.items():
        sums[key] = sums.get(key, 0.0) + value


def _mean(sums: dict[str, float]) -> dict[str, float]:
    count = sums.get("count", 0.0)
    return {key: value / count for key, value in sums.items() if key != "count"}
