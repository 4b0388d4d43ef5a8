"""Every code block of docs/swapping.md runs, and every example, here or in the swap environment."""

from __future__ import annotations

import importlib.util
import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "swapping.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_of_the_page_on_swapping(number: int) -> None:
    if "import timm" in BLOCKS[number] and not importlib.util.find_spec("timm"):
        pytest.skip("timm is not installed; `make test-swap` has an environment with it")
    exec(compile(BLOCKS[number], f"{PAGE.name}, block {number}", "exec"), {"__name__": "page"})


def test_the_page_has_blocks_and_the_pattern_finds_them() -> None:
    assert len(BLOCKS) == PAGE.read_text(encoding="utf-8").count("```python") >= 7


EXAMPLES = {
    "swap_squeeze_excite.py": ("--channels", "16", "--size", "8"),
    "swap_soca.py": ("--channels", "16", "--size", "8"),
    "swap_isqrt_cov.py": ("--channels", "24", "--reduced", "16", "--size", "6"),
}


def test_every_example_is_tested() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == EXAMPLES.keys()


def run(
    name: str, *options: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    monkeypatch.setattr(sys, "argv", [name, *options])
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
    return capsys.readouterr().out


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--rounds", "1", *EXAMPLES[name])
    said = run(name, *options, monkeypatch=monkeypatch, capsys=capsys)
    assert re.search(r"^[1-9]\d* replaced, 0 skipped", said), said
    differences = re.findall(r"differ by ([\d.e+-]+)", said)
    assert differences
    assert all(float(figure) < 1e-5 for figure in differences), said
    assert re.search(r"[\d.]+ times as fast as before, in this run", said)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_help_of_an_example(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        run(name, "--help", monkeypatch=monkeypatch, capsys=capsys)
    assert "--rounds" in capsys.readouterr().out
