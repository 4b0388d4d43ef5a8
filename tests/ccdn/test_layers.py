"""The packages of ccdn form layers: no import points up, and no two modules import each other.

Imports are read from the sources, those within functions and for type checkers too.
"""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# From the ground up; those on one line do not import each other.
FLOORS = (
    ("runtime",),
    ("data",),
    ("synthetic_faces",),
    ("config",),
    ("models",),
    ("checkpoint",),
    ("plan",),
    ("inference",),
    ("evaluation",),
    ("training",),
    ("report",),
    ("cli",),
    ("train", "__main__"),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
MOST_ROOMS = 16


def modules(package: Path) -> dict[str, Path]:
    """Every module of a package by its full name."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of the package that one imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            full = {f"{node.module}.{name.name}" for name in node.names}
            found |= {name if name in known else str(node.module) for name in full}
    return found & known.keys()


def arrows(package: Path) -> dict[str, set[str]]:
    known = modules(package)
    return {name: imports(path, known) - {name} for name, path in known.items()}


def room(module: str) -> str:
    return module.split(".")[1]


def upward(graph: dict[str, set[str]], floor: dict[str, int]) -> list[str]:
    """The imports that lead up, or sideways into another room of the floor.

    The package itself is what users import: it may reach down into every room.
    """
    found = []
    for module, used in graph.items():
        for other in sorted(used):
            if "." not in module:
                continue
            if "." not in other:
                found.append(f"{module} -> {other}")
                continue
            here, there = room(module), room(other)
            if here != there and floor[there] >= floor[here]:
                found.append(f"{module} -> {other}")
    return found


def test_no_arrow_leads_up() -> None:
    graph = arrows(ROOT / "ccdn")
    assert {room(module) for module in graph if "." in module} == FLOOR.keys()
    assert upward(graph, FLOOR) == []


def test_no_modules_import_each_other() -> None:
    TopologicalSorter(arrows(ROOT / "ccdn")).prepare()


def test_ccdn_ops_knows_nothing_of_ccdn() -> None:
    for path in sorted((ROOT / "ccdn_ops").rglob("*.py")):
        assert not imports(path, modules(ROOT / "ccdn")), path


def test_imports_have_full_names() -> None:
    """So that `arrows` sees them."""
    for path in modules(ROOT / "ccdn").values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            relative = isinstance(node, ast.ImportFrom) and node.level > 0
            assert not relative, f"{path}:{node.lineno}"


def test_only_commands_know_the_command_line() -> None:
    for name, path in modules(ROOT / "ccdn").items():
        if not name.startswith("ccdn.cli"):
            assert "argparse" not in path.read_text(encoding="utf-8"), name


def test_few_rooms() -> None:
    entries = {path.name for path in (ROOT / "ccdn").iterdir()} - {"__pycache__"}
    assert len(entries) <= MOST_ROOMS, sorted(entries)


def test_the_checks_see_what_is_wrong(tmp_path: Path) -> None:
    package = tmp_path / "house"
    for name, text in {
        "low/a.py": "import house.low.b\n",
        "low/b.py": "def late():\n    from house.high import c\n",
        "high/c.py": "from house.low.a import x\n",
    }.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for folder in (package, package / "low", package / "high"):
        (folder / "__init__.py").touch()
    graph = arrows(package)
    assert upward(graph, {"low": 0, "high": 1}) == ["house.low.b -> house.high.c"]
    with pytest.raises(CycleError):
        TopologicalSorter(graph).prepare()
