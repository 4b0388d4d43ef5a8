"""Exports compute what the network computes in other runtimes; a wrong export is not written."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import ccdn
import ccdn_ops.decompositions
from ccdn.checkpoint import safetensors_file
from ccdn.checkpoint.bundled import DEFAULT_WEIGHTS
from ccdn.checkpoint.state import Checkpoint
from ccdn.checkpoint.torch_file import save_checkpoint
from ccdn.cli import export
from ccdn.config import load_config
from ccdn.models import build_model

# torch's exporters take 10 ms and more for each of a graph's nodes, so the quick tests have few.
VARIANTS = {
    "short series": ["model.iterations=2"],
    "ccdn": [],
    "fcdn": ["model.orders=1"],
    "baseline": ["model.ctm=false"],
    "uncentred": ["model.covariance=uncentred"],
    "integral": ["model.head=integral", "model.orders=1"],
    "integral baseline": ["model.head=integral", "model.ctm=false"],
}
QUICK = "short series"


def onnx_runtime() -> Any:
    for name in ("onnx", "onnxruntime", "onnxscript"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed; `pip install 'ccdn[export]'`")
    import onnxruntime

    return onnxruntime


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, small: list[str]) -> Any:
    """A function from a variant's name to a checkpoint whose every weight matters."""
    folder = tmp_path_factory.mktemp("weights")

    def make(variant: str) -> Path:
        path = folder / f"{variant}.pt"
        if not path.exists():
            sizes = ["model.input_size=64", "model.stage_channels=[6,20]", "train.ema=0"]
            config = load_config("tiny", [*small, *sizes, *VARIANTS[variant]])
            torch.manual_seed(0)
            model = build_model(config.model)
            with torch.no_grad():
                for weight in model.parameters():
                    weight.add_(torch.randn_like(weight), alpha=0.1)
                for _ in range(30):  # until the normalisations know their statistics
                    model(torch.rand(8, 3, 64, 64))
            save_checkpoint(path, Checkpoint(config, model.state_dict(), torch.zeros(68, 2)))
        return path

    return make


def command(*arguments: object) -> int:
    return export.main([str(argument) for argument in arguments])


@pytest.mark.parametrize(
    "variant", [v if v == QUICK else pytest.param(v, marks=pytest.mark.slow) for v in VARIANTS]
)
def test_onnx_takes_any_batch_and_is_the_network(
    variant: str, weights: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runtime = onnx_runtime()
    import onnx

    out = tmp_path / "face.onnx"
    assert command("--weights", weights(variant), "--out", out) == 0
    assert "differ from the network's by at most" in capsys.readouterr().out

    made = onnx.load(str(out))
    onnx.checker.check_model(made, full_check=True)
    assert {node.domain for node in made.graph.node} == {""}
    assert not made.functions
    metadata = {entry.key: entry.value for entry in made.metadata_props}
    assert '"points": 68' in metadata["ccdn.config"]

    session = runtime.InferenceSession(str(out))
    (crops,), (landmarks,) = session.get_inputs(), session.get_outputs()
    assert (crops.name, crops.shape) == ("crops", ["batch", 3, 64, 64])
    assert (landmarks.name, landmarks.shape) == ("landmarks", ["batch", 68, 2])
    model = ccdn.load(weights(variant))
    opencv = cv2.dnn.readNetFromONNX(str(out))
    for batch in (1, 3, 7):
        x = torch.rand(batch, 3, 64, 64)
        with torch.no_grad():
            expected = model(x).landmarks.numpy()
        (found,) = session.run(None, {"crops": x.numpy()})
        assert np.ptp(expected) > 0.1
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
        opencv.setInput(x.numpy())
        np.testing.assert_allclose(opencv.forward(), found, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("opset", [export.OPSETS[0], export.OPSETS[-1]])
def test_opencv_runs_the_default_weights(opset: int, tmp_path: Path) -> None:
    runtime = onnx_runtime()
    import onnx

    out = tmp_path / "face.onnx"
    assert command("--weights", DEFAULT_WEIGHTS, "--out", out, "--opset", opset) == 0
    assert [entry.version for entry in onnx.load(str(out)).opset_import] == [opset]
    session, opencv = runtime.InferenceSession(str(out)), cv2.dnn.readNetFromONNX(str(out))
    for batch in (1, 4, 2):
        x = torch.rand(batch, *session.get_inputs()[0].shape[1:]).numpy()
        opencv.setInput(x)
        (expected,) = session.run(["landmarks"], {"crops": x})
        np.testing.assert_allclose(opencv.forward("landmarks"), expected, rtol=0, atol=1e-5)


LOAD_WITHOUT_US = """
import sys, torch
module = torch.export.load(sys.argv[1]).module()
torch.manual_seed(0)
torch.save(module(torch.rand(3, 3, 64, 64)), sys.argv[2])
assert not [name for name in sys.modules if name.startswith("ccdn")]
"""


def test_pt2_needs_torch_alone(weights: Any, tmp_path: Path) -> None:
    out = tmp_path / "face.pt2"
    assert command("--weights", weights(QUICK), "--out", out) == 0
    assert not [name for name in operators(out) if name.startswith("ccdn")]
    found = tmp_path / "found.pt"
    subprocess.run([sys.executable, "-c", LOAD_WITHOUT_US, out, found], check=True)
    model = ccdn.load(weights(QUICK))
    torch.manual_seed(0)
    with torch.no_grad():
        expected = model(torch.rand(3, 3, 64, 64)).landmarks
    torch.testing.assert_close(torch.load(found), expected, rtol=0, atol=1e-5)


def operators(path: Path) -> set[str]:
    return {str(node.target) for node in torch.export.load(path).graph.nodes}


@pytest.mark.slow
def test_pt2_keeps_our_operators_if_asked(weights: Any, tmp_path: Path) -> None:
    out = tmp_path / "face.pt2"
    assert command("--weights", weights("ccdn"), "--out", out, "--keep-operators") == 0
    assert "ccdn.ctm.default" in operators(out)


def test_safetensors_are_the_weights(weights: Any, tmp_path: Path) -> None:
    out = tmp_path / "weights.bin"
    arguments = ("--weights", weights("fcdn"), "--out", out)
    assert command(*arguments, "--format", "safetensors") == 0
    found, expected = ccdn.load(out), ccdn.load(weights("fcdn"))
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name
    assert command("--weights", out, "--out", tmp_path / "again.safetensors") == 0


def test_half_a_file_is_nearly_the_network(weights: Any, tmp_path: Path) -> None:
    """float16 has 11 bits: a weight is off by 2^-12 of itself at most, a vector not at all."""
    whole, half = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    assert command("--weights", weights("ccdn"), "--out", whole) == 0
    assert command("--weights", weights("ccdn"), "--out", half, "--half") == 0
    found, expected = ccdn.load(half).state_dict(), ccdn.load(whole).state_dict()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        bound = 0.0 if tensor.ndim < 2 else 2.0**-11
        torch.testing.assert_close(found[name], tensor, rtol=bound, atol=2.0**-25 * (bound > 0))
    assert any(not torch.equal(found[name], tensor) for name, tensor in expected.items())
    spared = whole.stat().st_size - half.stat().st_size
    matrices = sum(tensor.numel() for tensor in expected.values() if tensor.ndim > 1)
    assert spared == pytest.approx(2 * matrices, rel=0.05)


def refused(arguments: tuple[object, ...], out: Path, error: Any) -> None:
    out.write_text("before")
    assert command(*arguments, "--out", out) == 1
    assert "expected at most 1.0e-04; nothing was written" in error().err
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    assert out.read_text() == "before"


def test_weights_that_are_not_the_network_s_are_not_written(
    weights: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    right = safetensors_file.to_bytes

    def wrong(checkpoint: Checkpoint, half: bool) -> bytes:
        model = {**checkpoint.model, "head.bias": checkpoint.model["head.bias"] + 2e-4}
        return right(replace(checkpoint, model=model), half)

    monkeypatch.setattr(safetensors_file, "to_bytes", wrong)
    arguments = ("--weights", weights("fcdn"))
    refused(arguments, tmp_path / "face.safetensors", capsys.readouterr)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_a_graph_that_is_not_the_network_is_not_written(
    kind: str,
    weights: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if kind == "onnx":
        onnx_runtime()
    right = ccdn_ops.decompositions._on_a_vector
    wrong = lambda *a, root: 1.5 * right(*a, root=root)  # noqa: E731
    monkeypatch.setattr(ccdn_ops.decompositions, "_on_a_vector", wrong)
    arguments = ("--weights", weights(QUICK))
    refused(arguments, tmp_path / f"face.{kind}", capsys.readouterr)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "face.onnx", "--half"], "--half goes with safetensors, found onnx"),
        (["--out", "face.onnx", "--opset", "12"], "--opset 12: expected 18 to 23"),
        (["--out", "face.pt2", "--opset", "18"], "--opset goes with onnx, found pt2"),
        (["--out", "face.xyz"], "expected the suffix .onnx, .pt2 or .safetensors"),
        (["--out", "face"], "found 'no suffix'"),
        (["--out", "face.onnx", "--keep-operators"], "--keep-operators goes with pt2, found onnx"),
        (["--out", "face.pt2", "--weights", "gone.pt"], "gone.pt: expected a checkpoint file"),
    ],
)
def test_wrong_usage_is_one_line(
    arguments: list[str], message: str, weights: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    own = [] if "--weights" in arguments else ["--weights", str(weights("ccdn"))]
    assert command(*own, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_missing_packages_are_named(
    weights: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == "onnxscript" else found(n, *a)
    )
    assert command("--weights", weights("ccdn"), "--out", tmp_path / "face.onnx") == 2
    cure = f"needs onnxscript; `{sys.executable} -m pip install onnxscript`"
    assert cure in capsys.readouterr().err


def test_the_bundled_weights_are_the_default(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "face.safetensors"
    assert command("--out", out) == 0
    assert "no --weights given; using the bundled model" in capsys.readouterr().err
    found, expected = ccdn.load(out), ccdn.load(DEFAULT_WEIGHTS)
    for name, weight in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], weight), name
