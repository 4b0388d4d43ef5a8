"""The README stays short, and its figures are those that were measured."""

from __future__ import annotations

import re

import pytest
from pages import ROOT, text_of

pytestmark = pytest.mark.check

README = text_of(ROOT / "README.md")
RESULTS = text_of(ROOT / "docs" / "results.md")


def test_it_is_short() -> None:
    assert len(README.split()) <= 900
    first_screen = README[: README.index("## Train")]
    for needed in ("pip install .", "ccdn.Predictor()", "make demo", "make test"):
        assert needed in first_screen


def test_the_accuracy_of_the_bundled_weights() -> None:
    """synthetic.json is the one source; the pages repeat it."""
    pytest.importorskip("omegaconf", reason="ccdn is not installed, only ccdn_ops")
    from ccdn.checkpoint.bundled import about

    figure = f"{about().helen_nme:.2f} %"
    (row,) = re.findall(r"^\| bundled weights.*$", README, re.MULTILINE)
    assert figure in row
    (row,) = re.findall(r"^\| `synthetic`.*$", RESULTS, re.MULTILINE)
    assert figure in row
    assert f"{about().mean_shape_nme:.2f} %" in row


def test_the_accuracy_of_quick() -> None:
    (row,) = re.findall(r"^\| `quick`, 22 minutes.*$", README, re.MULTILINE)
    (result,) = re.findall(r"^\| `quick`, 45 epochs.*$", RESULTS, re.MULTILINE)
    (figure,) = re.findall(r"[\d.]+ ± [\d.]+ %", row)
    assert figure == re.findall(r"[\d.]+ ± [\d.]+ %", result)[0]


def test_the_accuracy_of_finetune() -> None:
    (row,) = re.findall(r"^\| `finetune`.*$", README, re.MULTILINE)
    (result,) = re.findall(r"^\| `finetune`, 45 epochs.*$", RESULTS, re.MULTILINE)
    (figure,) = re.findall(r"[\d.]+ %", row)
    assert figure == re.findall(r"[\d.]+ %", result)[0]


def test_the_speed_of_the_squeeze() -> None:
    page = text_of(ROOT / "docs" / "benchmarks.md")
    rows = re.findall(r"^\| \(\d+, \d+, \d+\) \| ([\d.]+) \| ([\d.]+) \|", page, re.MULTILINE)
    best, eager = zip(*((float(a), float(b)) for a, b in rows), strict=True)
    (row,) = re.findall(r"^\| covariance squeeze.*$", README, re.MULTILINE)
    assert f"{min(best)} to {max(best)} times" in row
    assert f"{min(eager)} to {max(eager):.0f} times" in row


def test_every_extra_for_users_is_named() -> None:
    for extra in ("export", "demo", "video", "bench", "tensorboard"):
        assert f"pip install '.[{extra}]'" in README
