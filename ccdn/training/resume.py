"""Resuming a run: the checkpoint to resume from, and whether it fits."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ccdn.checkpoint.load import load_checkpoint
from ccdn.checkpoint.safetensors_file import save_portable
from ccdn.checkpoint.state import Checkpoint, CheckpointError
from ccdn.checkpoint.torch_file import save_checkpoint
from ccdn.config import Config, TrainConfig, differences
from ccdn.plan.faces import TrainingFaces
from ccdn.training.optimizer import rate_factor

LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"
WEIGHTS = "weights.safetensors"

SAME_SHAPE = 1e-5  # of the crop: more than rounding moves a mean shape; other faces exceed it
# Fields that may differ between a checkpoint and the run that resumes from it.
_FREE = {
    "train.device",
    "train.workers",
    "train.threads",
    "train.checkpoint_steps",
    "train.keep_epochs",
    "train.tensorboard",
    "train.deterministic",
    "train.out",
    "data.root",
    "data.eval_splits",
    "data.cache",
    "data.cache_dir",
}


def save_last(folder: Path, checkpoint: Checkpoint) -> None:
    """Write last.pt atomically; the old last.pt becomes previous.pt. Raises OSError."""
    last, previous = folder / LAST, folder / PREVIOUS

    def keep() -> None:
        if not last.exists():
            return
        link = folder / f".{PREVIOUS}.link.tmp"
        link.unlink(missing_ok=True)
        try:
            os.link(last, link)
        except OSError:  # a file system without hard links
            shutil.copyfile(last, link)
        os.replace(link, previous)

    save_checkpoint(last, checkpoint, before_replacing=keep)


def load_last(folder: Path) -> tuple[Checkpoint, Path, str | None]:
    """The newest intact checkpoint of a run, its file, and, if that is not last.pt, what is wrong
    with last.pt.

    Raises CheckpointError, saying what is wrong with last.pt, if neither it nor previous.pt can
    be read.
    """
    last, previous = folder / LAST, folder / PREVIOUS
    try:
        return load_checkpoint(last), last, None
    except CheckpointError as error:
        if not previous.is_file():
            raise
        try:
            return load_checkpoint(previous), previous, str(error)
        except CheckpointError:
            raise error from None


def finish(folder: Path, checkpoint: Checkpoint) -> bool:
    """Write weights.safetensors of a complete run from its last checkpoint, if a process was killed
    before it could; returns whether that was the case. Raises OSError.
    """
    path = folder / WEIGHTS
    checkpoint = to_use(folder, checkpoint)
    try:
        if load_checkpoint(path).step == checkpoint.step:
            return False
    except CheckpointError:  # missing, or damaged
        pass
    save_portable(path, checkpoint)
    return True


def to_use(folder: Path, last: Checkpoint) -> Checkpoint:
    """The weights of a run: those of its best epoch if a held-out part selects it, else of its
    last. Raises CheckpointError for a damaged best.pt.
    """
    best = folder / BEST
    chosen = last.config.train.selection == "holdout" and best.exists()
    return load_checkpoint(best) if chosen else last


def set_aside_damaged(folder: Path) -> None:
    """Rename a last.pt that cannot be read to damaged.pt, so it does not become previous.pt."""
    last = folder / LAST
    if last.exists():
        try:
            load_checkpoint(last)
        except CheckpointError:
            os.replace(last, folder / "damaged.pt")


def has_checkpoint(folder: Path) -> bool:
    """Whether a run in the folder has saved a checkpoint."""
    return (folder / LAST).exists() or (folder / PREVIOUS).exists()


def check_resumable(wanted: Config, checkpoint: Checkpoint, processes: int, source: Path) -> None:
    """Raise CheckpointError, naming the fields, if a run with the configuration `wanted` on this
    many processes cannot resume from a checkpoint.

    train.epochs may change if the learning rate does not depend on it (schedule step or constant),
    and train.batch_scope and batch_size if the batch of all processes stays the same.
    """
    saved, then = checkpoint.config, checkpoint.processes
    free = set(_FREE)
    before, now = _step_of(saved.train, then), _step_of(wanted.train, processes)
    if before == now:
        free |= {"train.batch_scope", "train.batch_size"}
    elif wanted.train.batch_scope == "process" and then != processes:
        keeps = f"train.batch_scope=global train.batch_size={before[0]} would keep it"
        raise CheckpointError(
            f"{source}: the run began with {then} processes, found {processes}; with"
            " train.batch_scope process that changes the batch, or the rate"
            + (f"; {keeps}" if wanted.train.lr_scaling == "none" else "")
        )
    if wanted.train.schedule in ("step", "constant"):
        free.add("train.epochs")
    found = differences(saved, wanted)
    changed = [key for key in found if key not in free]
    if changed:
        named = "; ".join(
            f"{key} was {found[key][0]!r}, now {found[key][1]!r}" for key in changed[:3]
        )
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise CheckpointError(f"{source}: cannot resume with another configuration: {named}{more}")


def _step_of(train: TrainConfig, processes: int) -> tuple[int, float]:
    """The images per step over all processes, and the factor by which that scales the rate."""
    images = train.batch_size * (processes if train.batch_scope == "process" else 1)
    return images, rate_factor(train, processes)


def check_fits(
    checkpoint: Checkpoint, config: Config, faces: TrainingFaces, processes: int, source: Path
) -> None:
    """Raise CheckpointError if a run with these faces on this many processes cannot resume from a
    checkpoint whose configuration is resumable.
    """
    if checkpoint.optimizer is None:
        raise CheckpointError(f"{source}: holds weights only; a run cannot resume from it")
    if checkpoint.faces != len(faces.crops):
        raise CheckpointError(
            f"{source}: the run began with {checkpoint.faces} training faces, found"
            f" {len(faces.crops)}"
        )
    then = _step_of(checkpoint.config.train, checkpoint.processes)
    now = _step_of(config.train, processes)
    if then != now:
        raise CheckpointError(
            f"{source}: the run began with {then[0]} images a step and {then[1]:g} times the"
            f" learning rate, found {now[0]} and {now[1]:g}"
        )
    moved = float((checkpoint.mean_shape - faces.mean_shape).abs().max())
    if not moved < SAME_SHAPE:
        raise CheckpointError(
            f"{source}: the run began with other faces, as many: the mean of their landmarks is"
            f" up to {moved:.2g} of the crop from that of {faces.description['name']}"
        )


def what_changed(checkpoint: Checkpoint, threads: int, processes: int) -> list[str]:
    """A line for each difference that may change the last bits, or more, of a resumed run."""
    found = []
    if checkpoint.threads and checkpoint.threads != threads:
        found.append(
            f"the run had {checkpoint.threads} torch threads, now {threads}: its last bits may"
            " differ from those of a run that never stopped"
        )
    if checkpoint.processes != processes:
        found.append(
            f"the run had {checkpoint.processes} processes, now {processes}: each batch holds the"
            " same faces, sums are taken in another order, and statistics of batch normalisation"
            " that are not synchronised are of other parts"
        )
    return found
