"""docs/gpu.md: its tables are what the model says of the record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pages import ROOT, text_of

PAGE = text_of(ROOT / "docs" / "gpu.md")


@pytest.fixture
def predict(load: Callable[[str], Any]) -> Any:
    return load("gpu_predict")


def test_the_page_has_the_current_predictions(predict: Any) -> None:
    found = predict.tables(predict.Static.read())
    renew = "run python benchmarks/gpu_predict.py --write"
    assert predict.renewed(PAGE, found) == PAGE, renew
    for target in predict.TARGETS:
        assert any(
            target.what in line and target.wanted in line for line in found["targets"].splitlines()
        )


def test_the_page_says_that_nothing_was_measured() -> None:
    assert "## Nothing on this page was measured on a device" in PAGE
    assert "**prediction**" in PAGE


def test_a_page_without_a_place_for_a_table_is_refused(predict: Any) -> None:
    with pytest.raises(ValueError, match="0 places for targets"):
        predict.renewed("# A page\n", {"targets": "| a |"})


def test_the_command(predict: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict.main(["--parts", "cocs_loss 64x4x256 .* forward"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("cocs_loss 64x4x256 float32 forward: ")
    assert any(line.split()[0] == "unit_sums" for line in lines[1:])
