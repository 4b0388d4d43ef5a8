"""Every example runs, here or in the swap environment."""

from __future__ import annotations

import re
import runpy
import sys

import pytest
from pages import ROOT

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
