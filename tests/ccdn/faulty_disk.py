"""Every command where files cannot be written: `python faulty_disk.py FOLDER`.

FOLDER holds faces/ and run/, a training of them that was measured. Each command runs on a disk that
is full (this process's files may not grow beyond some bytes), then in a folder that is read-only,
also for root: this process gives up the right to pass over permissions. What came of it is printed
as one JSON object, {"fault: command": {"code", "error", "left"}}.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from ccdn import ablate, activations, evaluate, export, predict, report, train
from ccdn.data import __main__ as data

LEFT = 3000  # bytes of a file: settings can still be written, results cannot
Command = tuple[Callable[[list[str]], int], list[str]]


def commands(folder: Path, out: Path) -> dict[str, Command]:
    """Every command that writes, its results going to `out`."""
    faces, weights = str(folder / "faces"), str(folder / "run/last.pt")
    photo, film = f"{faces}/face00.png", str(folder / "film.mp4")
    box = ["--box", "10,10,80,90"]
    made = ["--train", "2", "--test", "1"]
    trained = ["--data", faces, "--out", str(out), *json.loads((folder / "small.json").read_text())]
    return {
        "train": (train.main, ["--config", "tiny", *trained]),
        "ablate": (ablate.main, ["--grid", str(folder / "grid.yaml"), *trained]),
        "evaluate": (evaluate.main, ["--weights", weights, "--out", str(out)]),
        "report": (report.main, [str(folder / "run"), "--out", str(out / "page.html")]),
        "export": (export.main, ["--weights", weights, "--out", str(out / "a.safetensors")]),
        "predict": (predict.main, [photo, *box, "--weights", weights, "--out", str(out)]),
        "predict video": (predict.main, [film, "--weights", weights, "--out", str(out)]),
        "activations": (
            activations.main,
            [photo, *box, "--weights", weights, "--out", str(out / "maps.png")],
        ),
        "inspect": (data.main, ["inspect", "folder", faces, "--out", str(out)]),
        **{
            f"synthesize {name}": (
                data.main,
                ["synthesize", "--protocol", name, *made, "--out", str(out)],
            )
            for name in ("300w", "wflw", "cofw", "aflw")
        },
    }


@contextlib.contextmanager
def full_disk(bytes_left: int) -> Iterator[None]:
    """No file of this process grows beyond so many bytes; Python ignores the signal for it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def obey_permissions() -> None:
    """Give up CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, by which root writes everywhere."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this process
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable, then their upper halves
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capget(header, sets) == 0, os.strerror(ctypes.get_errno())
    sets[0] &= ~(1 << 1 | 1 << 2)
    assert libc.capset(header, sets) == 0, os.strerror(ctypes.get_errno())


def outcome(command: Command, out: Path) -> dict[str, object]:
    said = io.StringIO()
    run, arguments = command
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            code: object = run(arguments)
        except BaseException as error:  # what a user would see as a traceback
            code = repr(error)
    left = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    return {"code": code, "error": said.getvalue(), "left": left}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    found = {}
    for name in commands(folder, Path()):
        out = folder / f"full {name}"
        out.mkdir()
        with full_disk(LEFT):
            found[f"full: {name}"] = outcome(commands(folder, out)[name], out)
    obey_permissions()
    out = folder / "read-only"
    out.mkdir()
    out.chmod(0o555)
    for name, command in commands(folder, out).items():
        found[f"read-only: {name}"] = outcome(command, out)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
