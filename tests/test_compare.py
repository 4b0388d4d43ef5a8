"""benchmarks/compare.py: two trees take turns, and what one of them lacks is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ccdn_ops.backends import native

ROOT = Path(__file__).resolve().parents[1]
Load = Callable[[str], ModuleType]


class Pretended:
    """A tree whose calls take `times` in turn; its rows come from a list."""

    commit, built, versions = "abc", "compiler 1", "torch 9"

    def __init__(self, name: str, log: list[str], times: list[float], operators: set[str]) -> None:
        self.name, self.log, self.times, self.operators = name, log, times, operators

    def ask(self, **question: Any) -> dict[str, Any]:
        if "calls" in question:
            self.log.append(f"{self.name} {question['calls']}")
            return {"seconds": self.times[len(self.log) % len(self.times)]}
        if "rows" in question:
            return {"count": 2}
        if "examples" in question:
            return {"paths": dict.fromkeys(self.operators, "file")}
        if question.get("index") == 1 and self.name == "before":
            return {"missing": "TypeError: no such option"}
        return {"size": {"B": 8}}


def pretended(**operators: set[str]) -> tuple[Any, Any, list[str]]:
    log: list[str] = []
    before = Pretended("before", log, [0.004, 0.003], operators["before"])
    after = Pretended("after", log, [0.002], operators["after"])
    return before, after, log


def test_the_trees_take_turns(load: Load) -> None:
    compare = load("compare")
    before, after, log = pretended(before=set(), after=set())
    assert compare.turns((before, after), seconds=0) == (0.003, 0.002)
    first, rounds = log[:2], log[2:]
    assert first == ["before 1", "after 1"]
    assert [line.split()[0] for line in rounds] == ["before", "after", "after", "before"] * 2
    assert len({line.split()[1] for line in rounds}) == 1  # as many calls in all turns
    assert compare.Compared({}, 0.003, 0.002).ratio == pytest.approx(1.5)


def test_what_a_tree_lacks_is_left_out_and_said(load: Load) -> None:
    compare = load("compare")
    before, after, _ = pretended(before={"ctm"}, after={"ctm", "roots"})
    trees = (before, after)
    rows, left_out = compare.of_operators(trees, ["ctm", "roots"], seconds=0)
    assert [row.size for row in rows["ctm"]] == [{"B": 8}]
    assert "roots" not in rows
    assert left_out == ["ctm, row 1: before: TypeError: no such option", "roots: before has none"]
    calls, without = compare.of_calls(trees, seconds=0)
    assert list(calls) == ["ctm"]
    assert without == ["a call of roots: before has none"]
    text = compare.summary(trees, rows, calls, [*left_out, *without])
    assert text.count("- **left out**: ") == 3
    assert "- before: abc, compiler 1" in text
    assert "| 1.50 | 1.50 | 1.50 | ctm | 1 |" in text
    assert "| 1.50 | 8 | 3.000 | 2.000 |" in text
    assert "| ctm | 1.50 | 3000.0 | 2000.0 | 1.50 | 3000.0 | 2000.0 |" in text


def test_a_folder_without_the_package(load: Load, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="before: there is no ccdn_ops in"):
        load("tree").Tree("before", tmp_path)


def test_a_process_that_ends(load: Load, tmp_path: Path) -> None:
    (tmp_path / "ccdn_ops").mkdir()
    (tmp_path / "ccdn_ops" / "__init__.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(SystemExit, match=r"before: the process of .* has ended"):
        load("tree").Tree("before", tmp_path)


def test_a_tree_in_an_instruction_set(load: Load) -> None:
    if native.module() is None:
        pytest.skip(native.why_missing())
    tree = load("tree").Tree
    with tree("before", ROOT, "base") as base:
        assert base.built.startswith("base, compiler ")


def test_an_instruction_set_that_the_machine_lacks(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = load("tree").Tree
    about = {"problem": None, "operators": [], "isa": "base", "built": "", "versions": ""}
    monkeypatch.setattr(tree, "ask", lambda *_, **__: about)
    with pytest.raises(SystemExit, match="after: this machine runs base, not x86-64-v4"):
        tree("after", ROOT, "x86-64-v4")


def test_a_tree_in_a_process_of_its_own(load: Load) -> None:
    """This one with itself: a row, a call in both ways, and a row that fails."""
    if native.module() is None:
        pytest.skip(native.why_missing())
    compare = load("compare")
    with load("tree").Tree("before", ROOT) as tree:
        trees = (tree, tree)
        rows, left_out = compare.of_operators(trees, ["excitation_gates"], seconds=0)
        calls, without = compare.of_calls(trees, seconds=0)
        assert left_out == without == []
        assert [row.size for row in rows["excitation_gates"]][-1] == {"B": 16, "P": 2, "D": 64}
        assert all(row.before > 0 and row.after > 0 for row in rows["excitation_gates"])
        assert "dual_squeeze" in calls
        assert compare.compared(trees, 0, operator="ctm", index=99).startswith("before: IndexError")
