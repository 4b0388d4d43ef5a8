"""Train a model: `python -m ccdn.train --config tiny --data DIR`."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

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
from ccdn.files import atomic_write, remove_leftovers
from ccdn.progress import plain_warnings

EXAMPLES = """\
examples:
  python -m ccdn.train --config tiny --data synthetic            generated faces, no files needed
  python -m ccdn.train --config small --data ~/300w --out runs/a
  python -m ccdn.train --config tiny --data ~/my_faces model.points=21 data.box=gt
  python -m ccdn.train --config paper --data ~/300w train.batch_size=32 train.lr=5e-4
  python -m ccdn.train --resume --out runs/a                     go on where runs/a stopped
  python -m ccdn.train --config paper --print-config             all fields and their values

exit codes: 0 done, 1 training cannot go on, 2 wrong usage or data, 130 and 143 interrupted (a
checkpoint is saved first)
"""

RUN_FILES = ("last.pt", "best.pt", "metrics.jsonl", "curves.png", "config.yaml")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    options = _parser().parse_intermixed_args(arguments)
    plain_warnings()
    try:
        return _run(options)
    except _user_errors() as error:
        print(f"ccdn.train: {error}", file=sys.stderr)
        return 1 if type(error).__name__ == "TrainingError" else 2
    except KeyboardInterrupt:
        print("ccdn.train: interrupted", file=sys.stderr)
        return 130


def _user_errors() -> tuple[type[Exception], ...]:
    from ccdn.data import DataError
    from ccdn.training.batches import BatchError
    from ccdn.training.checkpoint import CheckpointError
    from ccdn.training.trainer import TrainingError

    return (ConfigError, DataError, BatchError, CheckpointError, TrainingError, OSError)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ccdn.train",
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
        "--resume", action="store_true", help="go on from the run's last checkpoint"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a run that is in the folder already"
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
        raise ConfigError("--resume goes on with a run and --overwrite replaces it: choose one")
    if options.config is None and not options.resume:
        raise ConfigError(
            f"which configuration? --config with a preset ({', '.join(presets())}) or a YAML file"
        )
    config = None
    if options.config is not None:
        config = load_config(options.config, _overrides(options))
        if options.print_config:
            print(config_to_yaml(config), end="")
            return 0
    out = Path(options.out or (config or Config()).train.out)
    if options.config is None and options.out is None:
        raise ConfigError("--resume without --config: which run? --out DIR")

    from ccdn.training.checkpoint import CheckpointError, load_checkpoint
    from ccdn.training.faces import open_training_faces
    from ccdn.training.trainer import Interrupted, Trainer, check_resumable

    last = out / "last.pt"
    checkpoint = None
    if options.resume and last.exists():
        checkpoint = load_checkpoint(last)
        if config is None:
            values = config_to_dict(checkpoint.config)
            config = config_from_dict(values, str(last), _overrides(options))
            if options.print_config:
                print(config_to_yaml(config), end="")
                return 0
    if config is None:
        raise CheckpointError(f"{last}: expected the checkpoint of a run, found nothing")
    config = replace(config, data=resolve_data(config.data))
    if checkpoint is not None:
        check_resumable(config, checkpoint.config, last)
    elif not options.resume and not options.overwrite:
        present = [name for name in RUN_FILES if (out / name).exists()]
        if present:
            resume = "--resume goes on with it, " if last.exists() else ""
            raise ConfigError(
                f"{out} holds a run's files already ({', '.join(present)}): {resume}"
                "--overwrite replaces them, --out names another folder"
            )
    total = config.train.epochs
    if checkpoint is not None and checkpoint.epoch >= total:
        print(f"{last}: the run is complete, {total} epochs", file=sys.stderr)
        return 0

    faces = open_training_faces(config)
    trainer = Trainer(config, faces, out, checkpoint)
    _prepare_folder(out, config, fresh=checkpoint is None)
    _announce(trainer, config, resumed=checkpoint is not None)
    if options.resume and checkpoint is None:
        print(f"{last} is not there: a new run begins", file=sys.stderr, flush=True)
    try:
        trainer.fit()
    except Interrupted as stop:
        print(
            f"ccdn.train: stopped by {stop} after step {trainer.step}; {last} is saved. Go on with:"
            f"\n  python -m ccdn.train --resume --out {out}",
            file=sys.stderr,
        )
        return 130 if stop.signum == signal.SIGINT else 143
    print(f"done: {last}", file=sys.stderr)
    return 0


def _overrides(options: argparse.Namespace) -> list[str]:
    named = []
    if options.data is not None:
        named.append(f"data.root={options.data}")
    if options.out is not None:
        named.append(f"train.out={options.out}")
    return named + list(options.overrides)


def _prepare_folder(out: Path, config: Config, fresh: bool) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name in RUN_FILES:
        remove_leftovers(out / name)
        if fresh:
            (out / name).unlink(missing_ok=True)
    with atomic_write(out / "config.yaml") as file:
        file.write(config_to_yaml(config).encode())


def _announce(trainer: object, config: Config, resumed: bool) -> None:
    from ccdn.training.trainer import Trainer

    assert isinstance(trainer, Trainer)
    weights = sum(p.numel() for p in trainer.model.parameters())
    faces = trainer.faces
    held = "" if faces.holdout is None else f", {len(faces.holdout)} held out"
    lines = [
        f"{len(faces.crops)} training faces of {faces.description['name']}{held};"
        f" box {config.data.box}, margin {config.data.margin:g}",
        f"{weights / 1e6:.2f} million weights on {trainer.device};"
        f" {config.train.epochs} epochs of {trainer.steps} steps; run folder {trainer.out}",
    ]
    if resumed:
        lines.append(f"going on after step {trainer.step} (epoch {trainer.place.epoch + 1})")
    print("\n".join(lines), file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
