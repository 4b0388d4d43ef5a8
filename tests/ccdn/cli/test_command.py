"""How every command ends: an exit code and one line, however it was stopped."""

from __future__ import annotations

import io
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ccdn.cli.command import command
from ccdn.cli.data import main as data
from ccdn.cli.main import COMMANDS, module_of
from ccdn.cli.main import main as ccdn
from ccdn.synthetic_faces import SyntheticFaces
from ccdn_ops import use_backend
from ccdn_ops.backends import native
from ccdn_ops.report import report

ROOT = Path(__file__).parents[3]


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
def test_a_closed_pipe(
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
        assert main(99999) == 0  # nothing reads the rest
        stream.close()  # as when Python exits: the remaining output is flushed without an error
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted before it has read its arguments."""

    def interrupt(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("argparse.ArgumentParser.parse_known_args", interrupt)
    assert ccdn([name]) == 130


@pytest.mark.parametrize(
    ("words", "name", "imported"),
    [(["ccdn", "evaluate"], "evaluate", "numpy"), (["ccdn.train"], "train", "omegaconf")],
)
def test_interrupted_while_it_imports(
    words: list[str], name: str, imported: str, tmp_path: Path
) -> None:
    """Imports take seconds, in which people press Ctrl-C."""
    (tmp_path / f"{imported}.py").write_text("raise KeyboardInterrupt")
    done = subprocess.run(
        [sys.executable, "-m", *words, "--help"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
    )
    assert (done.returncode, done.stderr) == (130, f"ccdn {name}: interrupted\n")


def test_every_module_of_a_command_is_in_the_list() -> None:
    """And `python -m` runs nothing but ccdn and, as it always did, ccdn.train."""
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text(encoding="utf-8")
        for path in sorted((ROOT / "ccdn").rglob("*.py"))
    }
    commands = {name for name, text in modules.items() if re.search(r"^@command", text, re.M)}
    assert commands == {"ccdn.cli.main", *map(module_of, COMMANDS)}
    started = {name for name, text in modules.items() if '\nif __name__ == "__main__":' in text}
    assert started == {"ccdn.__main__", "ccdn.train"}


@pytest.mark.parametrize(
    "arguments", [["ccdn_ops"], ["ccdn"], ["ccdn", "models", "tiny"]], ids=" ".join
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


@pytest.mark.parametrize(
    ("words", "code", "out", "err"),
    [
        ([], 0, "usage: ccdn COMMAND", ""),
        (["--help"], 0, "usage: ccdn COMMAND", ""),
        (["--version"], 0, "ccdn ", ""),
        (["trian"], 2, "", "ccdn: no command 'trian'; did you mean train?\n"),
        (["x"], 2, "", "ccdn: no command 'x'; expected one of train, evaluate, report,"),
        (["--config", "tiny"], 2, "", "ccdn: no command '--config'; expected one of train,"),
    ],
)
def test_without_a_command(
    words: list[str], code: int, out: str, err: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ccdn(words) == code
    said = capsys.readouterr()
    assert (said.out[: len(out)], said.err[: len(err)]) == (out, err)
    assert bool(said.out) == (code == 0)
    assert bool(said.err) == (code != 0)


# What takes a tenth of a second or more to import.
HEAVY = ("torch", "numpy", "cv2", "scipy", "yaml", "omegaconf", "matplotlib", "pydantic", "tqdm")


def test_the_list_of_commands_imports_nothing_heavy() -> None:
    program = """
import sys
from ccdn.cli.main import main
main(["--help"])
print(*sys.modules)
"""
    process = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT
    )
    assert process.returncode == 0, process.stderr
    assert not set(process.stdout.splitlines()[-1].split()) & set(HEAVY)


def test_ops(capsys: pytest.CaptureFixture[str]) -> None:
    """The summary is short and names the instruction set; -v is the whole report."""
    assert ccdn(["ops"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 15
    if native.module() is not None:
        (kernels,) = [line for line in lines if line.startswith("CPU kernels     ")]
        isa = kernels.removeprefix("CPU kernels     ").partition(", ")[0]
        assert isa in (*native.CPU_ISAS, "of an unknown instruction set (build the module again)")
    assert any(line.startswith("used on cpu     ") for line in lines)
    assert ccdn(["ops", "-v"]) == 0
    assert capsys.readouterr().out == f"{report()}\n"


def test_ops_where_a_backend_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with use_backend("reference"):
        assert ccdn(["ops"]) == 0
    assert "used on cpu     reference for every operator\n" in capsys.readouterr().out


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
    assert capsys.readouterr() == ("", "ccdn data: interrupted\n")
    assert list(tmp_path.rglob("*")) == [out] * there
