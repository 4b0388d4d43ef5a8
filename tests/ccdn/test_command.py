"""How every command ends: an exit code and one line, however it was stopped."""

from __future__ import annotations

import io
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import pytest

from ccdn.__main__ import COMMANDS
from ccdn.cli.command import command
from ccdn.data.__main__ import main as data
from ccdn.synthetic_faces import SyntheticFaces

ROOT = Path(__file__).parents[2]


def entry_points() -> list[str]:
    """Every module of ccdn that `python -m` runs."""
    found = []
    for path in sorted((ROOT / "ccdn").rglob("*.py")):
        if '\nif __name__ == "__main__":' in path.read_text(encoding="utf-8"):
            found.append(".".join(path.relative_to(ROOT).with_suffix("").parts))
    return found


@contextmanager
def without_reader() -> Iterator[int]:
    """The end of a pipe that is written to, whose other end is closed."""
    read, write = os.pipe()
    os.close(read)
    try:
        yield write
    finally:
        os.close(write)


def stopped_by(error: BaseException) -> Callable[[], int]:
    @command("ccdn.made_up", ValueError, OSError)
    def main() -> int:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("found 1, expected 2"), 2, "ccdn.made_up: found 1, expected 2\n"),
        (OSError(28, "full", "a"), 2, "ccdn.made_up: [Errno 28] full: 'a'\n"),
        (BrokenPipeError(32, "a worker's"), 2, "ccdn.made_up: [Errno 32] a worker's\n"),
        (KeyboardInterrupt(), 130, "ccdn.made_up: interrupted\n"),
    ],
)
def test_one_line(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stopped_by(error)() == code
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize("error", [RuntimeError("a fault"), SystemExit(2)])
def test_other_ends_are_python_s(error: BaseException) -> None:
    with pytest.raises(type(error)):
        stopped_by(error)()


@pytest.mark.parametrize(("unbuffered", "poll"), [(False, True), (True, True), (False, False)])
def test_nobody_reads(
    unbuffered: bool,
    poll: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if not poll:
        monkeypatch.delattr(select, "poll", raising=False)

    @command("ccdn.made_up", OSError)
    def main(count: int) -> int:
        for number in range(count):
            print(number)
        return 0

    with without_reader() as pipe:
        binary = io.FileIO(pipe, "w", closefd=False)
        raw = binary if unbuffered else io.BufferedWriter(binary)
        stream = io.TextIOWrapper(raw, write_through=unbuffered)
        monkeypatch.setattr(sys, "stdout", stream)
        assert main(3) == 141
        assert main(99999) == 0  # the rest of it goes nowhere
        stream.close()  # as when Python ends: what is left is written without a fault
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("module", entry_points())
def test_every_command(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted before it has read its arguments."""

    def interrupt(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)

    main = import_module(module).main
    monkeypatch.setattr("argparse.ArgumentParser.parse_known_args", interrupt)
    assert main([]) == 130


def test_the_list_of_commands() -> None:
    assert {"ccdn", *COMMANDS} == {name.removesuffix(".__main__") for name in entry_points()}


@pytest.mark.parametrize(
    "arguments", [["ccdn_ops"], ["ccdn"], ["ccdn.models", "tiny"]], ids=" ".join
)
def test_into_a_pipe_that_is_closed(arguments: list[str]) -> None:
    with without_reader() as pipe:
        process = subprocess.run(
            [sys.executable, "-m", *arguments],
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": ""},
        )
    assert process.returncode in (141, -signal.SIGPIPE)
    assert process.stderr == ""


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("protocol", ["300w", "wflw", "cofw", "aflw"])
def test_ctrl_c_leaves_no_half_of_a_benchmark(
    protocol: str,
    there: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    image = SyntheticFaces.image

    def interrupted_at_the_third(faces: SyntheticFaces, index: int) -> object:
        if index == 2:
            signal.raise_signal(signal.SIGINT)
        return image(faces, index)

    monkeypatch.setattr(SyntheticFaces, "image", interrupted_at_the_third)
    out = tmp_path / "made"
    if there:
        out.mkdir()
    made = ["--train", "4", "--test", "1", "--size", "48", "--out", str(out)]
    assert data(["synthesize", "--protocol", protocol, *made]) == 130
    assert capsys.readouterr() == ("", "ccdn.data: interrupted\n")
    assert list(tmp_path.rglob("*")) == [out] * there
