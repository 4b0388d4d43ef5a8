"""A full disk and a read-only folder: one line of error, and no partial file."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from ccdn.cli import ablate, activations, data, evaluate, export, predict, report, train

if sys.platform != "linux":
    pytest.skip("limits and capabilities are Linux's", allow_module_level=True)

import resource

LEFT = 3000  # bytes of a file: settings can still be written, results cannot
Command = tuple[Callable[[list[str]], int], list[str]]


@pytest.fixture(scope="module")
def folder(face_folder: Path, small: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the made-up faces that was evaluated, a film and a grid."""
    folder = tmp_path_factory.mktemp("disk")
    grid = "config: tiny\nvariants: [fcdn]\nexcitations: [2]\nseeds: [0]\n"
    (folder / "grid.yaml").write_text(grid)
    film = cv2.VideoWriter(str(folder / "film.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25, (96, 96))
    for _ in range(3):
        film.write(np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8))
    film.release()
    trained = ["--config", "tiny", "--data", str(face_folder), "--out", str(folder / "run")]
    assert train.main([*trained, *small, "train.epochs=1"]) == 0
    assert evaluate.main(["--weights", str(folder / "run/last.pt")]) == 0
    return folder


def commands(folder: Path, faces: Path, small: list[str], out: Path) -> dict[str, Command]:
    """Every command that writes, its results to `out`."""
    weights = ["--weights", str(folder / "run/last.pt")]
    face = [str(faces / "face00.png"), "--box", "10,10,80,90", *weights]
    trained = ["--data", str(faces), "--out", str(out), *small, "train.epochs=1"]
    made = ["--train", "2", "--test", "1", "--out", str(out)]
    return {
        "train": (train.main, ["--config", "tiny", *trained]),
        "ablate": (ablate.main, ["--grid", str(folder / "grid.yaml"), *trained]),
        "evaluate": (evaluate.main, [*weights, "--out", str(out)]),
        "report": (report.main, [str(folder / "run"), "--out", str(out / "page.html")]),
        "export": (export.main, [*weights, "--out", str(out / "a.safetensors")]),
        "predict": (predict.main, [*face, "--out", str(out)]),
        "predict video": (predict.main, [str(folder / "film.mp4"), *weights, "--out", str(out)]),
        "activations": (activations.main, [*face, "--out", str(out / "maps.png")]),
        "inspect": (data.main, ["inspect", "folder", str(faces), "--out", str(out)]),
        "synthesize 300w": (data.main, ["synthesize", "--protocol", "300w", *made]),
        "synthesize wflw": (data.main, ["synthesize", "--protocol", "wflw", *made]),
        "synthesize cofw": (data.main, ["synthesize", "--protocol", "cofw", *made]),
        "synthesize aflw": (data.main, ["synthesize", "--protocol", "aflw", *made]),
    }


@pytest.fixture(params=list(commands(Path(), Path(), [], Path())))
def command(
    request: pytest.FixtureRequest,
    folder: Path,
    face_folder: Path,
    small: list[str],
    tmp_path: Path,
) -> tuple[str, Callable[[], int]]:
    """The name of a command, and how to run it."""
    main, arguments = commands(folder, face_folder, small, tmp_path)[request.param]
    return request.param, lambda: main(arguments)


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process grows beyond LEFT bytes; Python ignores the signal for it.

    A module that is imported meanwhile is not cached: Python 3.11 does not notice that it wrote a
    part of its bytecode only, and no process could import the module again.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    without_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    resource.setrlimit(resource.RLIMIT_FSIZE, (LEFT, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        sys.dont_write_bytecode = without_bytecode


@contextlib.contextmanager
def permissions_obeyed() -> Iterator[None]:
    """Without CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, by which root writes everywhere."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this thread
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable, then their upper halves
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capget(header, sets) == 0, os.strerror(ctypes.get_errno())
    before = sets[0]
    sets[0] &= ~(1 << 1 | 1 << 2)
    assert libc.capset(header, sets) == 0, os.strerror(ctypes.get_errno())
    try:
        yield
    finally:
        sets[0] = before
        assert libc.capset(header, sets) == 0, os.strerror(ctypes.get_errno())


def error_lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines on stderr, of which the last is the command's own."""
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith("ccdn "), said
    return said


def test_a_full_disk_is_one_line(
    command: tuple[str, Callable[[], int]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, run = command
    with full_disk():
        code = run()
    # A running training cannot continue; the other commands could not start.
    assert code == {"train": 1, "ablate": 1}.get(name, 2)
    said = error_lines(capsys)
    fault = [line for line in said if "File too large" in line or "is the disk full?" in line]
    assert len(fault) == 1, said
    assert str(tmp_path) in fault[0]
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_read_only_folder_is_one_line(
    command: tuple[str, Callable[[], int]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, run = command
    tmp_path.chmod(0o555)
    with permissions_obeyed():
        code = run()
    tmp_path.chmod(0o755)
    said = error_lines(capsys)
    assert code == 2, said
    assert any("Permission denied" in line and str(tmp_path) in line for line in said), said
    assert not list(tmp_path.iterdir())
