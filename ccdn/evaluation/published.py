"""The paper's printed numbers: published.yaml, read and checked."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class PublishedRow:
    """A method's printed numbers, in the order of the table's columns; None where none is given."""

    method: str
    values: tuple[float | None, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PublishedBlock:
    """The rows of a table that share a norm; notes hold for all of them."""

    norm: str
    rows: tuple[PublishedRow, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PublishedTable:
    """One table of the paper."""

    title: str
    paper: str
    columns: tuple[str, ...]
    blocks: tuple[PublishedBlock, ...]


@lru_cache(maxsize=1)
def published() -> dict[str, PublishedTable]:
    """The paper's tables by name, table2 to table7; notes explain what does not add up."""
    content = yaml.safe_load((Path(__file__).parent / "published.yaml").read_text("utf-8"))
    notes: dict[str, str] = content["notes"]

    def notes_of(entry: dict[str, Any]) -> tuple[str, ...]:
        return tuple(" ".join(notes[name].split()) for name in entry.get("notes", ()))

    tables = {}
    for name, table in content["tables"].items():
        blocks = []
        for block in table["blocks"]:
            rows = tuple(
                PublishedRow(row["method"], tuple(row["values"]), notes_of(row))
                for row in block["rows"]
            )
            for row in rows:
                if len(row.values) != len(table["columns"]):
                    raise ValueError(
                        f"{name}, {row.method}: found {len(row.values)} values, expected"
                        f" {len(table['columns'])}"
                    )
            blocks.append(PublishedBlock(block["norm"], rows, notes_of(block)))
        tables[name] = PublishedTable(
            table["title"], table["paper"], tuple(table["columns"]), tuple(blocks)
        )
    return tables
