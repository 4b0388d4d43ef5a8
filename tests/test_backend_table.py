"""The table of backends in docs/benchmarks.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def test_the_page_has_the_current_table(load: Any) -> None:
    backend_table = load("backend_table")
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert backend_table.table() in page, "run python benchmarks/backend_table.py --write"


def test_the_table_follows_the_results(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend_table = load("backend_table")
    monkeypatch.setattr(backend_table, "RESULTS", tmp_path)
    assert backend_table.cell("dual_squeeze", "cuda") == "yes, emulated, not run on a GPU"
    assert backend_table.cell("dual_squeeze", "cpu") == "yes, tested"
    record = {
        "device": "H",
        "tested": {"dual_squeeze": ["cuda"]},
        "measured": {"dual_squeeze": ["cuda"]},
    }
    (tmp_path / "h.json").write_text(json.dumps(record))
    (tmp_path / "h.md").write_text("## multi_excite\n")
    (tmp_path / "cpu.md").write_text("## dual_squeeze\n")
    assert backend_table.cell("dual_squeeze", "cuda") == "yes, emulated, tested on H, measured"
    assert backend_table.cell("dual_squeeze", "triton") == "yes, interpreted, not run on a GPU"
    assert backend_table.cell("dual_squeeze", "cpu") == "yes, tested, measured"
    assert backend_table.cell("multi_excite", "cpu") == "yes, tested"
    assert "no figure" not in backend_table.table()
