"""Train and measure a grid of runs: `ccdn ablate --grid table7 --data DIR --out DIR`."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from ccdn.cli.command import command
from ccdn.data import DataError
from ccdn.evaluation.ablation import (
    Cell,
    Grid,
    cells,
    check_overrides,
    grids,
    load_grid,
    write_tables,
)
from ccdn.evaluation.result_files import read_results
from ccdn.evaluation.tables import Table, as_text
from ccdn.runtime.errors import ConfigError
from ccdn.runtime.locks import BusyError, Lock

EXAMPLES = """\
examples:
  ccdn ablate --grid variants --data ~/300w --out runs/variants
  ccdn ablate --grid table6 --data ~/300w --out runs/gamma \\
      --launcher "torchrun --nproc-per-node 8"
  ccdn ablate --grid own.yaml --data synthetic --out runs/own train.epochs=5
  ccdn ablate --grid table7 --out runs/excitations --list

The same command resumes an interrupted grid: finished runs are kept, and the interrupted one
continues from its last checkpoint. Several commands share the runs, on this machine or on others
that share the disk; give each its own device (CUDA_VISIBLE_DEVICES=1 ccdn ablate ...). --out
receives a folder per run and, after each run, table.md, table.csv and table.tex (NME, mean ± sample
deviation over the seeds) and cells.csv.

exit codes: 0 done, 1 a run cannot continue, 2 wrong usage or data, 130 and 143 interrupted
"""

CLAIM = ".claim"  # held by the command that trains and measures a run


@command("ccdn ablate", ConfigError, DataError, OSError)
def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    options = _parser().parse_intermixed_args(arguments)
    return _run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ccdn ablate",
        description="Train and measure a grid: variant x excitations x gamma x seeds.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    known = ", ".join(grids())
    parser.add_argument("--grid", required=True, help=f"a grid ({known}) or a YAML file")
    parser.add_argument("--data", metavar="DIR", help="folder of the faces, or the word synthetic")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the grid")
    parser.add_argument("--launcher", metavar="COMMAND", help="starts each training, e.g. torchrun")
    parser.add_argument("--list", action="store_true", help="print the runs and stop")
    parser.add_argument(
        "overrides", nargs="*", metavar="section.field=value", help="fields of every run"
    )
    return parser


def _run(options: argparse.Namespace) -> int:
    grid = load_grid(options.grid)
    grid.overrides += options.overrides
    check_overrides(grid)
    out = Path(options.out).expanduser()
    todo = cells(grid)
    if options.list:
        for cell in todo:
            done = "done" if (out / cell.name / "results.json").exists() else "open"
            print(f"{cell.name}  {done}  {' '.join([*grid.overrides, *cell.overrides()])}")
        return 0
    waiting = list(enumerate(todo, 1))
    for _ in range(2):  # runs that another command held at first may be free by now
        busy = []
        for number, cell in waiting:
            print(f"run {number} of {len(todo)}: {cell.name}", file=sys.stderr, flush=True)
            with Lock(out / cell.name / CLAIM) as claim:
                try:
                    claim.take()
                except BusyError as error:
                    print(f"{error}: left to it", file=sys.stderr, flush=True)
                    busy.append((number, cell))
                    continue
                code = _cell(cell, grid, out, options)
            if code:
                print(f"ccdn ablate: {cell.name} ended with exit code {code}", file=sys.stderr)
                return code
            _tables(grid, out)
        waiting = busy
    table = _tables(grid, out)
    print(f"{as_text(table)}\n{table.title}; written: {out}/table.md, .csv, .tex, cells.csv")
    if waiting:
        names = ", ".join(cell.name for _, cell in waiting)
        print(f"still running elsewhere; the other commands will write the tables: {names}")
    return 0


def _tables(grid: Grid, out: Path) -> Table:
    """Write the tables, one command at a time, so that a command that has seen fewer results never
    overwrites the tables of one that has seen more.
    """
    with Lock(out / CLAIM) as claim:
        claim.take(wait=60.0)
        return write_tables(grid, out)


def _cell(cell: Cell, grid: Grid, out: Path, options: argparse.Namespace) -> int:
    from ccdn.cli import evaluate, train

    folder = out / cell.name
    results = folder / "results.json"
    # Even for a finished run: training refuses to resume with another configuration.
    arguments = ["--config", grid.config, "--out", str(folder), "--resume"]
    arguments += ["--data", options.data] if options.data else []
    arguments += [*grid.overrides, *cell.overrides()]
    if options.launcher is None:
        code = train.main(arguments)
    else:
        code = _call([*_launcher(options.launcher), "-m", "ccdn.train", *arguments])
    if code:
        return code
    weights = folder / ("best.pt" if (folder / "best.pt").exists() else "last.pt")
    if results.exists() and _is_of(results, weights):
        return 0
    return evaluate.main(["--weights", str(weights)])


def _call(arguments: Sequence[str]) -> int:
    """Run a command in its own session, so that SIGINT and SIGTERM reach it only from here. A
    signal is passed on once, and then the command may save its checkpoint. Returns its exit code,
    or the signal's. Raises OSError for a command that does not exist.
    """
    from ccdn.runtime.signals import handling

    received = 0
    child: subprocess.Popen[bytes] | None = None

    def pass_on(signum: int, frame: FrameType | None) -> None:
        nonlocal received
        if not received and child is not None:
            _signal(child, signum)
        received = received or signum

    with handling(pass_on):
        child = subprocess.Popen(arguments, start_new_session=True)
        if received:
            _signal(child, received)
        code = child.wait()
    if received:
        return 128 + received
    return code if code >= 0 else 128 - code  # as a shell reports a process that a signal ended


def _signal(child: subprocess.Popen[bytes], signum: int) -> None:
    # Windows cannot send Ctrl-C to one process, but the process got it from the console.
    with suppress(ValueError):
        child.send_signal(signum)


def _is_of(results: Path, weights: Path) -> bool:
    """Whether results belong to the current weights: the run may have continued to a larger
    train.epochs since. Raises DataError for damaged results.
    """
    from ccdn.checkpoint.load import load_checkpoint

    return bool(read_results(results).get("trained_steps") == load_checkpoint(weights).step)


def _launcher(text: str) -> list[str]:
    try:
        found = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"--launcher {text!r}: {error}") from None
    if not found:
        raise ConfigError(f"--launcher {text!r}: expected a command, e.g. torchrun")
    return found
