"""`--dry-run`: everything built, one batch tried, nothing written."""

from __future__ import annotations

import sys
import time

import torch
from tqdm import tqdm

from ccdn.runtime.progress import counted
from ccdn.training.distribution import train_mode
from ccdn.training.schedule import learning_rate
from ccdn.training.step import NotFiniteError
from ccdn.training.trainer import Trainer, TrainingError

TRIES = 3  # steps with the same batch; the first is a warm-up and is not counted


def dry_run(trainer: Trainer) -> str:
    """Read a batch, do a few steps with it, and report what the run would take.

    Afterwards the trainer has the weights of these steps. Raises TrainingError if a loss or
    gradient is not finite.
    """
    plan = trainer.plan
    train, device = plan.config.train, plan.device
    start = time.monotonic()
    stream = trainer.batches()
    try:
        batch = next(stream)
    finally:
        stream.close()
    reading = time.monotonic() - start
    train_mode(trainer.model, train)
    seconds = []
    for number in range(TRIES):
        start = time.monotonic()
        rate = learning_rate(train, number, plan.steps)
        try:
            values = trainer.do_step(batch, number, rate)
        except NotFiniteError as error:
            raise TrainingError(
                f"the {error.what} is not finite in step {number + 1} of the dry run: loss"
                f" {error.values['loss']}, gradient norm {error.values['gradient']}"
            ) from error
        seconds.append(time.monotonic() - start)
    step = min(seconds[1:])
    weights = list(trainer.model.parameters())
    count = sum(weight.numel() for weight in weights)
    own = sum(weight.nbytes for weight in weights)
    state = sum(
        value.nbytes
        for entry in trainer.optimizer.state.values()
        for value in entry.values()
        if torch.is_tensor(value)
    )
    averaged = 0 if trainer.averaged is None else own
    left = plan.total - trainer.step
    faces, size = plan.faces, plan.processes.size
    held = 0 if faces.holdout is None else len(faces.holdout)
    lines = [
        f"faces      {len(faces.crops)} to train on, {held} held out; {faces.description['name']}",
        f"batch      {plan.batch_size} images: {counted(size, 'process', 'processes')} x"
        f" {counted(train.accumulate, 'part')} x {plan.batch_size // size // train.accumulate}",
        f"weights    {count / 1e6:.2f} million, {_bytes(own)}; optimiser {_bytes(state)},"
        f" averages {_bytes(averaged)}; a checkpoint {_bytes(own + state + averaged)}",
        f"memory     {_memory(device)}",
        f"step       {step:.3f} s on {device}, {train.precision}; first batch read in"
        f" {reading:.2f} s; loss {values['loss']:.4f}",
        f"plan       {counted(left, 'step')}, {counted(train.epochs, 'epoch')} of"
        f" {plan.steps}; about {tqdm.format_interval(int(left * step))} if the data keep up",
        f"run folder {plan.out} (nothing written)",
    ]
    return "\n".join(lines)


def _memory(device: torch.device) -> str:
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        peak = torch.cuda.max_memory_allocated(device)
        return f"{_bytes(peak)} at the peak, {_bytes(free)} of {_bytes(total)} free"
    try:
        import resource
    except ImportError:  # Windows
        return "not known: this system does not report a process's peak"
    # Of this process with all of its imports; in kilobytes, except on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return f"{_bytes(peak)} at the peak of this process"


def _bytes(count: float) -> str:
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.2f} GB"
