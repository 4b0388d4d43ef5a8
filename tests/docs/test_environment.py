"""docs/environment.md lists every variable that the sources read, and no other of ours."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from pages import ROOT, text_of

PAGE = text_of(ROOT / "docs" / "environment.md")
LISTED = set(re.findall(r"`([A-Z][A-Z_]+)`", "".join(re.findall(r"^\| (.*?) \|", PAGE, re.M))))
OURS = re.compile(r"CCDN_[A-Z_]+")
FOLDERS = ("ccdn", "ccdn_ops", "benchmarks", "tests", "examples", "docs")
READERS = {"get", "setdefault", "getenv", "choice", "pop"}


def python_files() -> list[Path]:
    found = [ROOT / "setup.py"]
    for folder in FOLDERS:
        found += sorted((ROOT / folder).rglob("*.py"))
    return found


def read_by(tree: ast.AST) -> Iterator[str]:
    """The names in os.environ[...], os.environ.get(...), `in os.environ`, and setup.py's choice."""
    for node in ast.walk(tree):
        names: list[ast.expr] = []
        if isinstance(node, ast.Call):
            function = node.func
            called = function.attr if isinstance(function, ast.Attribute) else None
            called = function.id if isinstance(function, ast.Name) else called
            of_environ = "environ" in ast.unparse(function) or called in ("getenv", "choice")
            if called in READERS and of_environ:
                names = node.args[:1]
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
            names = [node.slice]
        elif isinstance(node, ast.Compare) and ast.unparse(node.comparators[0]) == "os.environ":
            names = [node.left]
        yield from (n.value for n in names if isinstance(n, ast.Constant) and str(n.value))


@lru_cache
def names_of_python() -> frozenset[str]:
    found: set[str] = set()
    for path in python_files():
        text = path.read_text(encoding="utf-8")
        if not re.search("environ|getenv|CCDN_", text):
            continue
        tree = ast.parse(text)
        found |= set(read_by(tree))
        # And ours wherever one is a string of its own: in a loop, or given to another process.
        found |= {
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and OURS.fullmatch(node.value)
        }
    return frozenset(found)


@lru_cache
def names_elsewhere() -> frozenset[str]:
    found: set[str] = set()
    for path in ROOT.glob("csrc/**/*.*"):
        if path.suffix == ".pyc":
            continue
        found |= set(re.findall(r'getenv\("([A-Z_]+)"\)', path.read_text(encoding="utf-8")))
    for path in (ROOT / "Makefile", ROOT / ".ci" / "run"):
        if path.exists():
            found |= set(re.findall(r"\$\$?\{?(CCDN_[A-Z_]+)", path.read_text(encoding="utf-8")))
            found |= set(re.findall(r"\b(CCDN_[A-Z_]+)=", path.read_text(encoding="utf-8")))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return frozenset(found | set(re.findall(r"^([A-Z_]+) \?=", makefile, re.MULTILINE)))


def test_ours_in_both_directions() -> None:
    ours = {name for name in names_of_python() | names_elsewhere() if OURS.fullmatch(name)}
    assert {name for name in LISTED if OURS.fullmatch(name)} == ours
    assert len(ours) >= 10


def test_every_other_variable_is_listed() -> None:
    read = {name for name in names_of_python() | names_elsewhere() if name.isupper()}
    assert read - LISTED == {"PYTHONPATH"}  # Python's own
    assert {"CXX", "MAX_JOBS", "RANK", "TRITON_INTERPRET", "PYTHON"} <= read
