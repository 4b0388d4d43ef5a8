"""docs/reliability.md: every test that it names exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.check

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "reliability.md").read_text("utf-8")
NODE = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


@cache
def names_in(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def rows() -> list[list[str]]:
    lines = [line for line in PAGE.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row in cells if row[0] != "fault"]


def test_every_row_names_tests_that_exist() -> None:
    assert len(rows()) > 40
    for row in rows():
        assert len(row) == 3, row
        nodes = NODE.findall(row[2])
        assert nodes, row
        for path, name in nodes:
            assert name in names_in(path), f"{path}::{name}"
        # Nothing but nodes in that column: a name that the pattern misses is not checked.
        assert not re.sub(r"[\s,]", "", NODE.sub("", row[2])), row
