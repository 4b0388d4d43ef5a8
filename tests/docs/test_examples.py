"""Every example runs, here or in the swap environment."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest
from pages import ROOT

SWAPS = {
    "swap_squeeze_excite.py": ("--channels", "16", "--size", "8"),
    "swap_soca.py": ("--channels", "16", "--size", "8"),
    "swap_isqrt_cov.py": ("--channels", "24", "--reduced", "16", "--size", "6"),
}
EXAMPLES = (*SWAPS, "landmarks.py", "training_loop.py")


def test_every_example_is_tested() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(EXAMPLES)


def run(
    name: str, *options: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    monkeypatch.setattr(sys, "argv", [name, *options])
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
    return capsys.readouterr().out


@pytest.mark.parametrize("name", SWAPS)
def test_a_swap(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--rounds", "1", *SWAPS[name])
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
    if name not in SWAPS:
        pytest.importorskip("omegaconf", reason="ccdn is not installed, only ccdn_ops")
    with pytest.raises(SystemExit, match="0"):
        run(name, "--help", monkeypatch=monkeypatch, capsys=capsys)
    assert re.search("--(rounds|out|epochs)", capsys.readouterr().out)


def test_landmarks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("cv2", reason="ccdn is not installed, only ccdn_ops")
    out = tmp_path / "landmarks.png"
    said = run("landmarks.py", "--out", str(out), monkeypatch=monkeypatch, capsys=capsys)
    (error,) = re.findall(r"^NME ([\d.]+) %", said)
    assert float(error) < 12
    assert "1 faces, 68 landmarks each" in said
    assert out.stat().st_size > 1000
    said = run("landmarks.py", str(out), "--out", str(out), monkeypatch=monkeypatch, capsys=capsys)
    assert "68 landmarks each" in said


def test_a_training_loop(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("omegaconf", reason="ccdn is not installed, only ccdn_ops")
    options = ("--faces", "48", "--epochs", "3")
    said = run("training_loop.py", *options, monkeypatch=monkeypatch, capsys=capsys)
    cocs = [float(figure) for figure in re.findall(r"COCS ([\d.]+)", said)]
    assert len(cocs) == 3
    assert cocs[0] > cocs[-1] > 0
    assert len(re.findall(r"NME [\d.]+ %", said)) == 4
