"""Train a model: `ccdn train --config tiny --data DIR`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ccdn.cli.command import command
from ccdn.config import (
    Config,
    ConfigError,
    config_from_dict,
    config_to_dict,
    config_to_yaml,
    load_config,
    presets,
    resolve_data,
)
from ccdn.runtime.files import atomic_write, remove_leftovers
from ccdn.runtime.locks import BusyError, Lock
from ccdn.runtime.progress import counted
from ccdn.training.run_record import read_starts, record_start, seconds_since

if TYPE_CHECKING:
    from ccdn.checkpoint.state import Checkpoint
    from ccdn.runtime.processes import Processes
    from ccdn.training.trainer import Trainer

EXAMPLES = """\
examples:
  ccdn train --config tiny --data synthetic            generated faces, no files needed
  ccdn train --config small --data ~/300w --out runs/a
  ccdn train --config tiny --data ~/my_faces model.points=21 data.box=gt
  ccdn train --config finetune --data ~/my_faces       start from the bundled weights
  ccdn train --config paper --data ~/300w train.batch_size=32 train.lr=5e-4
  ccdn train --resume --out runs/a                     resume where runs/a stopped
  ccdn train --config paper --data ~/300w --dry-run    what it would take
  torchrun --nproc-per-node 8 -m ccdn.train --config paper --data ~/300w --out runs/a
  torchrun --nnodes 2 --nproc-per-node 8 --max-restarts 3 --rdzv-backend c10d \\
      --rdzv-endpoint HOST:29400 --rdzv-id a -m ccdn.train --config paper --data ~/300w --out runs/a
  ccdn train --config paper --print-config             all fields and their values

Processes that torchrun restarts resume from the last checkpoint.

exit codes: 0 done, 1 training cannot continue (a loss that is not finite, a process that ended), 2
wrong usage or data, 130 and 143 interrupted (a checkpoint is saved first)
"""

LOCK = ".lock"
# Seconds that a run waits for the previous one in its folder to end. Longer under torchrun, where
# the previous run may have been on a machine that died, whose locks the disk keeps for a while.
PATIENCE, PATIENCE_OF_TORCHRUN = 10.0, 120.0
CLOCKS = 2.0  # seconds that the clocks of two machines may differ
# What a run always writes, and what it may write in addition; --overwrite replaces both.
RUN_FILES = (
    "last.pt",
    "previous.pt",
    "best.pt",
    "weights.safetensors",
    "metrics.jsonl",
    "curves.png",
    "samples.png",
    "config.yaml",
    "run.json",
)
MORE_RUN_FILES = ("epoch-*.pt", "damaged.pt", "bad_batch*.pt", "events/events.out.tfevents.*")


@command("ccdn train", OSError)
def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    options = _parser().parse_intermixed_args(arguments)
    try:
        return _run(options)
    except BrokenPipeError:
        raise  # perhaps the reader of the output has gone: `command` checks
    except _user_errors() as error:
        if os.environ.get("RANK", "0") == "0" or not getattr(error, "reported", False):
            print(f"ccdn train: {error}", file=sys.stderr)
        return 1 if type(error).__name__ in ("TrainingError", "WorkerError") else 2
    except RuntimeError as error:
        if not _is_lost_process(error):
            raise
        print(f"ccdn train: another process is gone: {error}", file=sys.stderr)
        return 1


def _user_errors() -> tuple[type[Exception], ...]:
    from ccdn.checkpoint.state import CheckpointError
    from ccdn.data import DataError
    from ccdn.training.batches import BatchError
    from ccdn.training.trainer import TrainingError
    from ccdn.training.workers import WorkerError

    data = (ConfigError, DataError, BatchError, CheckpointError)
    return (*data, TrainingError, WorkerError, OSError)


def _is_lost_process(error: RuntimeError) -> bool:
    """Whether gloo or NCCL reports that a process they wait for has ended; gloo's errors in a
    backward pass have no distinct type.
    """
    import torch

    distributed = torch.distributed
    if distributed.is_available() and isinstance(error, distributed.DistError):
        return True
    return "RANK" in os.environ and "gloo/transport" in str(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ccdn train",
        description="Train a landmark model.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config", help=f"a preset ({', '.join(presets())}) or a YAML file; with --resume optional"
    )
    parser.add_argument(
        "--data", metavar="DIR", help="folder of the faces, or the word synthetic (data.root)"
    )
    parser.add_argument("--out", metavar="DIR", help="folder of the run (train.out)")
    parser.add_argument(
        "--resume", action="store_true", help="resume from the run's last checkpoint"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a run that is in the folder already"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="build everything, try a batch, print the plan (memory, steps, time) and stop",
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print the whole configuration and stop"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="section.field=value",
        help="any field of the configuration, e.g. train.lr=1e-3",
    )
    return parser


def _run(options: argparse.Namespace) -> int:
    if options.resume and options.overwrite:
        raise ConfigError("--resume and --overwrite are mutually exclusive")
    if options.config is None and not options.resume:
        raise ConfigError(f"--config is required: a preset ({', '.join(presets())}) or a YAML file")
    config = None
    if options.config is not None:
        config = load_config(options.config, _overrides(options))
        if options.print_config:
            print(config_to_yaml(config), end="")
            return 0
    if options.config is None and options.out is None:
        raise ConfigError("--resume needs --out DIR or --config")
    out = Path(options.out or (config or Config()).train.out).expanduser()

    from ccdn.runtime.processes import processes

    device = "auto" if config is None else config.train.device
    with processes(device) as team, Lock(out / LOCK) as lock:
        return _train(options, config, out, team, lock)


def _train(
    options: argparse.Namespace, config: Config | None, out: Path, team: Processes, lock: Lock
) -> int:
    from ccdn.plan.faces import open_training_faces
    from ccdn.plan.training import plan_training
    from ccdn.runtime.processes import agent_age
    from ccdn.training.trainer import Interrupted, Trainer

    writes = team.first and not (options.dry_run or options.print_config)
    age = max(team.gather(agent_age()))

    # One process reads the folder and tells the others what to do: they may not even see it.
    plan: tuple[Config, Checkpoint | None] | Exception | None = None
    if team.first:
        try:
            if writes and out.is_dir():  # before its checkpoint is read
                _take(lock)
            plan = _plan(options, config, out, team.size, age)
        except _user_errors() as error:
            plan = error
    plan = team.from_first(plan)
    if isinstance(plan, Exception):
        plan.reported = True  # type: ignore[attr-defined]  # once is enough, by the first process
        raise plan
    if plan is None:
        return 0
    config, checkpoint = plan
    if options.dry_run:  # nothing is written
        config = replace(config, data=replace(config.data, cache_dir=None))
    faces = open_training_faces(config)
    trainer = Trainer(plan_training(config, faces, out, checkpoint, team))
    if options.dry_run:
        from ccdn.training.dry_run import dry_run

        report = dry_run(trainer)
        if team.first:
            print(report)
        return 0
    if team.first:
        lock.take()  # of a new folder
        _prepare_folder(out, config, checkpoint, team.size, options.overwrite)
        _announce(trainer, config, resumed=checkpoint is not None)
    try:
        trainer.fit()
    except Interrupted as stop:
        if team.first:
            print(
                f"ccdn train: stopped by {stop} after step {trainer.step}; {out / 'last.pt'} is"
                f" saved. Resume with:\n  ccdn train --resume --out {out}",
                file=sys.stderr,
            )
        return 130 if stop.signum == signal.SIGINT else 143
    if team.first:
        print(f"done: {out / 'last.pt'}", file=sys.stderr)
    return 0


def _take(lock: Lock) -> None:
    """Hold a run's lock, waiting for the previous process. Raises BusyError."""
    from ccdn.runtime.processes import run_id

    try:
        lock.take()
    except BusyError as busy:
        patience = PATIENCE if run_id() is None else PATIENCE_OF_TORCHRUN
        print(f"{busy}: waiting {patience:g} s for it to end", file=sys.stderr, flush=True)
        lock.take(patience)


def _plan(
    options: argparse.Namespace, config: Config | None, out: Path, processes: int, age: float
) -> tuple[Config, Checkpoint | None] | None:
    """The configuration, and the checkpoint to resume from; None if there is nothing to do.

    age: seconds since the oldest of torchrun's agents was started.
    """
    from ccdn.checkpoint.state import CheckpointError
    from ccdn.training.resume import WEIGHTS, check_resumable, finish, has_checkpoint, load_last

    last = out / "last.pt"
    resume = options.resume or _begun_by_this_torchrun(out, age)
    checkpoint = None
    if resume and has_checkpoint(out):
        checkpoint, source, wrong = load_last(out)
        if wrong is not None:
            print(f"{wrong}; resuming from {source} instead", file=sys.stderr, flush=True)
        if config is None:
            values = config_to_dict(checkpoint.config)
            config = config_from_dict(values, str(source), _overrides(options))
            if options.print_config:
                print(config_to_yaml(config), end="")
                return None
    if config is None:
        raise CheckpointError(f"{last}: expected the checkpoint of a run, found nothing")
    config = replace(config, data=resolve_data(config.data))
    if checkpoint is not None:
        check_resumable(config, checkpoint, processes, last)
    elif not resume and not options.overwrite and not options.dry_run:
        present = [name for name in RUN_FILES if (out / name).exists()]
        if present:
            go_on = "--resume continues it, " if has_checkpoint(out) else ""
            raise ConfigError(
                f"{out} holds a run's files already ({', '.join(present)}): {go_on}"
                "--overwrite replaces them, --out names another folder"
            )
    if checkpoint is not None and checkpoint.epoch >= config.train.epochs:
        print(
            f"{last}: the run is complete, {counted(config.train.epochs, 'epoch')}", file=sys.stderr
        )
        if not options.dry_run and finish(out, checkpoint):
            print(f"{out / WEIGHTS} was missing or older: written", file=sys.stderr)
        return None
    if resume and checkpoint is None:
        print(f"{last} is not there: a new run begins", file=sys.stderr, flush=True)
    return config, checkpoint


def _begun_by_this_torchrun(out: Path, age: float) -> bool:
    """Whether the torchrun that started this process also began the run in the folder: it has the
    same --rdzv-id, and one of its agents was alive then.
    """
    from ccdn.runtime.processes import run_id

    starts = read_starts(out)
    if run_id() is None or not starts or starts[-1].get("torchrun") != run_id():
        return False
    return seconds_since(starts[-1]) <= age + CLOCKS


def _overrides(options: argparse.Namespace) -> list[str]:
    named = []
    if options.data is not None:
        named.append(f"data.root={options.data}")
    if options.out is not None:
        named.append(f"train.out={options.out}")
    return named + list(options.overrides)


def _prepare_folder(
    out: Path, config: Config, checkpoint: Checkpoint | None, processes: int, overwrite: bool
) -> None:
    from ccdn.training.resume import set_aside_damaged

    out.mkdir(parents=True, exist_ok=True)
    for name in RUN_FILES:
        remove_leftovers(out / name)
        if checkpoint is None:
            (out / name).unlink(missing_ok=True)
    if checkpoint is None and overwrite:
        for path in [path for pattern in MORE_RUN_FILES for path in out.glob(pattern)]:
            path.unlink()
    if checkpoint is not None:
        set_aside_damaged(out)
    # First, because processes that torchrun restarts recognise their run by this.
    record_start(out, config, 0 if checkpoint is None else checkpoint.step, processes)
    with atomic_write(out / "config.yaml") as file:
        file.write(config_to_yaml(config).encode())


def _announce(trainer: Trainer, config: Config, resumed: bool) -> None:
    weights = sum(p.numel() for p in trainer.model.parameters())
    faces = trainer.plan.faces
    held = "" if faces.holdout is None else f", {len(faces.holdout)} held out"
    lines = [
        f"{len(faces.crops)} training faces of {faces.description['name']}{held};"
        f" box {config.data.box}, margin {config.data.margin:g}",
        f"{weights / 1e6:.2f} million weights on {_where(trainer)};"
        f" {counted(config.train.epochs, 'epoch')} of {counted(trainer.plan.steps, 'step')};"
        f" run folder {trainer.plan.out}",
    ]
    if trainer.start:
        lines.append(trainer.start)
    if resumed:
        lines.append(f"resuming after step {trainer.step} (epoch {trainer.place.epoch + 1})")
    print("\n".join(lines), file=sys.stderr, flush=True)


def _where(trainer: Trainer) -> str:
    size = trainer.plan.processes.size
    return (
        f"{trainer.plan.device.type} in {size} processes" if size > 1 else str(trainer.plan.device)
    )
