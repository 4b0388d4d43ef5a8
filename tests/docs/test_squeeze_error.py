"""The picture of the squeeze's error: its truth is true, and what is drawn was measured."""

from __future__ import annotations

import importlib
import json
from types import ModuleType

import pytest
import torch
from pages import ROOT

import ccdn_ops

DATA = json.loads((ROOT / "docs" / "squeeze_error.json").read_text(encoding="utf-8"))


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("squeeze_error")


@pytest.mark.parametrize("iterations", [1, 2, 5, 10])
@pytest.mark.parametrize("shape", [(2, 12, 30), (2, 30, 12)])
def test_truth_is_the_iteration(
    script: ModuleType, shape: tuple[int, int, int], iterations: int
) -> None:
    """Found without iterating matrices, from eigenvalues, one of them 18 times 0."""
    x, grad = (t.double() for t in script.features(shape, seed=0))
    true = script.truth(x, grad, iterations)
    leaf = x.requires_grad_()
    second = ccdn_ops.reference.second_order_squeeze(leaf, iterations)
    (grad_x,) = torch.autograd.grad(second, leaf, grad)
    assert script.error(second.detach(), true.second) < 1e-11
    assert script.error(grad_x, true.grad_x) < 1e-11


def test_truth_is_the_root(script: ModuleType) -> None:
    x, grad = script.features((2, 5, 40), seed=0)
    centred = x.double() - x.double().mean(2, keepdim=True)
    covariance = centred @ centred.mT / 40
    root = script.truth(x, grad, 3).root
    values, vectors = torch.linalg.eigh(covariance)
    square = vectors @ torch.diag_embed(values.sqrt()) @ vectors.mT
    torch.testing.assert_close(square @ square, covariance)
    torch.testing.assert_close(root, square.mean(2))


def test_what_is_drawn(script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    rows = {(tuple(row["shape"]), row["iterations"]): row for row in DATA["errors"]}
    assert set(rows) == {(shape, k) for shape in script.SHAPES for k in script.ITERATIONS}
    for row in rows.values():  # what the page says of it
        for what in ("value", "gradient"):
            assert 0 < row[f"operator {what}"] <= row[f"iteration {what}"] < 1e-4
        exact = row["exact steps to root"]
        assert row["operator to root"] == pytest.approx(exact, rel=1e-4)
    for k, values in DATA["truncation"].items():
        assert values == pytest.approx(script.truncation(int(k)), rel=1e-3, abs=1e-13)
    monkeypatch.setattr(script, "PICTURE", tmp_path / "again.svg")
    script.draw(DATA)
    assert (tmp_path / "again.svg").stat().st_size > 10_000
