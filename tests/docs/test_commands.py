"""Every command of the README and of docs/ is understood by the program that it starts.

Nothing is trained here: each command line goes through its program's own parser, its configurations
are loaded and its overrides applied. A fence without a language holds commands only.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
import shlex
from collections.abc import Callable
from typing import Any, NoReturn

import pytest
from pages import FENCE, PAGES, ROOT, Block, blocks, text_of

from ccdn.cli.main import COMMANDS, module_of

pytest.importorskip("omegaconf", reason="ccdn is not installed, only ccdn_ops")

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
# Placeholders for the reader's own names, and their values here.
STANDS_FOR = {"NAME": "folder", "X": "multi_excite", "L": "68"}
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
INLINE = re.compile(r"`((?:[A-Z_]+=\S+ )*(?:ccdn|python|make|torchrun|pip|pytest) [^`]*)`")
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))


def commands(block: Block) -> list[list[str]]:
    """The words of each command; continued lines are one, comments none."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


class ParsedError(Exception):
    """Raised where a program has parsed its arguments, so that it does nothing else."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__()
        self.options = options


def parsed(module: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a program makes of its arguments; None for --help. SystemExit where it refuses them."""

    def stopping(parse: Callable[..., argparse.Namespace]) -> Callable[..., NoReturn]:
        def stop(*arguments: Any) -> NoReturn:
            raise ParsedError(parse(*arguments))

        return stop

    for name in ("parse_args", "parse_intermixed_args"):
        parse = getattr(argparse.ArgumentParser, name)
        monkeypatch.setattr(argparse.ArgumentParser, name, stopping(parse))
    program = importlib.import_module(module)
    if hasattr(program, "__path__"):
        program = importlib.import_module(f"{module}.__main__")
    try:
        program.main(words)
    except ParsedError as done:
        return done.options
    except SystemExit as end:
        if end.code:
            pytest.fail(f"{module}: {shlex.join(words)} is refused")
        return None
    finally:
        monkeypatch.undo()
    raise AssertionError(f"{module} parsed nothing")


def check_command(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Check what stands behind `ccdn`: a command and its arguments."""
    from ccdn.config import load_config
    from ccdn.evaluation.ablation import cells, load_grid

    if words in ([], ["--help"], ["--version"]):
        return
    name, *arguments = words
    assert name in COMMANDS, shlex.join(["ccdn", *words])
    options = parsed(module_of(name), arguments, monkeypatch)
    overrides = getattr(options, "overrides", None) or []
    if name == "ablate":
        grid = load_grid(options.grid)
        cell = cells(grid)[-1]
        load_config(grid.config, [*grid.overrides, *overrides, *cell.overrides()])
    elif options is not None:
        load_config(getattr(options, "config", None) or "tiny", overrides)


def check_installation(what: str) -> None:
    """This project with extras that it has, or what a cure on a page names."""
    match = re.fullmatch(r"\.(?:\[([a-z,]+)\])?", what)
    if match is None:
        flags = ("--force-reinstall", "--no-build-isolation")
        assert what in ("opencv-python-headless", "opencv-python<5", *flags), what
        return
    extras = PYPROJECT.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    assert set((match[1] or "").split(",")) - {""} <= set(re.findall(r"^(\w+) = ", extras, re.M))


def check_module(module: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Check what `python -m` or torchrun starts."""
    if module == "ccdn_ops":
        assert not words
    elif module == "ccdn":
        check_command(words, monkeypatch)
    elif module == "ccdn.train":
        check_command(["train", *words], monkeypatch)
    else:
        assert not module.startswith("ccdn"), f"python -m {module}"
        parsed(module, words, monkeypatch)


def check(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    while re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    if words[:3] == ["python", "-m", "pytest"]:
        words = words[2:]
    program, *rest = words
    if program == "torchrun":
        from torch.distributed.run import get_args_parser

        options = get_args_parser().parse_args(rest)
        assert options.module
        check_module(options.training_script, options.training_script_args, monkeypatch)
    elif program == "pip":
        assert rest[0] == "install"
        for what in rest[1:]:
            check_installation(what)
    elif words[:3] == ["python3", "-m", "venv"]:
        assert len(words) == 4
    elif program == "source":
        assert rest == [".venv/bin/activate"]
    elif program == "ccdn":
        check_command(rest, monkeypatch)
    elif program == "python" and rest[0] == "-m":
        check_module(rest[1], rest[2:], monkeypatch)
    elif program == "python":
        assert (ROOT / rest[0]).is_file(), rest[0]
        source = (ROOT / rest[0]).read_text(encoding="utf-8")
        if rest[0] != "setup.py":  # its options are setuptools'
            assert all(f'"{word}"' in source for word in rest[1:] if word.startswith("-")), words
    elif program == "make":
        assert {word for word in rest if "=" not in word} <= TARGETS, words
    elif program == "pytest":
        paths = [word for word in rest if word.startswith(("tests", "benchmarks"))]
        assert paths
        assert all((ROOT / path).exists() for path in paths), words
    else:
        pytest.fail(
            f"no test knows the program of {shlex.join(words)!r}; a block that holds no"
            " commands has a language, such as text"
        )


@pytest.mark.parametrize("block", blocks(""), ids=str)
def test_commands(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    found = commands(block)
    assert found
    for words in found:
        check(words, monkeypatch)


def inline_commands() -> list[str]:
    found: dict[str, None] = {}
    for page in PAGES:
        text = FENCE.sub("", text_of(page))
        for command in INLINE.findall(text):
            found[re.sub(r"\s+", " ", command)] = None
    return list(found)


@pytest.mark.parametrize("command", inline_commands())
def test_inline_commands(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those within a sentence; what has no arguments names a program."""
    for name, example in STANDS_FOR.items():
        command = re.sub(rf"(?<![A-Za-z0-9]){name}(?![A-Za-z0-9=])", example, command)
    words = shlex.split(command)
    if words[:2] == ["python", "-m"] and len(words) == 3:
        assert importlib.util.find_spec(words[2])
    elif words[0] == "ccdn" and len(words) == 2:
        assert words[1] in {*COMMANDS, "--help", "--version"}, words
    else:
        check(words, monkeypatch)


def test_the_check_sees_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in (
        "ccdn train --confgi tiny",
        "ccdn evaluate --protocol 301w",
        "torchrun --nproc 8 --nonsense -m ccdn.train",
    ):
        with pytest.raises((pytest.fail.Exception, SystemExit)):
            check(shlex.split(wrong), monkeypatch)
    for wrong in ("make nothing", "pip install '.[nothing]'", "pip instal ."):
        with pytest.raises(AssertionError):
            check(shlex.split(wrong), monkeypatch)
    with pytest.raises(ValueError, match=r"train\.lrr"):
        check(shlex.split("ccdn train --config tiny train.lrr=1"), monkeypatch)
