"""ONNX Runtime as a backend: the same faces as torch's, from the file alone and without torch."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from pages import Block, blocks

import ccdn
from ccdn.checkpoint.bundled import DEFAULT_WEIGHTS
from ccdn.checkpoint.errors import CheckpointError
from ccdn.checkpoint.state import Checkpoint
from ccdn.checkpoint.torch_file import save_checkpoint
from ccdn.cli import activations, benchmark_predict, export, predict
from ccdn.config import load_config
from ccdn.data import generic_layout, landmark_box
from ccdn.data.detection import Detections
from ccdn.inference.network import Seen, Traits
from ccdn.inference.onnx_file import metadata
from ccdn.inference.results import Faces
from ccdn.inference.scores import MIRROR
from ccdn.models import build_model
from ccdn.runtime.errors import ConfigError
from ccdn.synthetic_faces import SyntheticFaces

for name in ("onnx", "onnxruntime", "onnxscript"):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed; the extra `export`", allow_module_level=True)

SIDE = 200


@pytest.fixture(scope="module")
def faces() -> SyntheticFaces:
    return SyntheticFaces(3, seed=9, size=SIDE, pose=10, occlusion=0)


Pair = tuple[Path, Path]  # a checkpoint, and its ONNX file


@pytest.fixture(scope="module")
def pair(
    faces: SyntheticFaces, small: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[bool], Pair]:
    """Of a network whose every weight matters, with a spread or without; few nodes are quick."""
    folder = tmp_path_factory.mktemp("pair")

    def make(spread: bool) -> Pair:
        weights = folder / f"{spread}.pt"
        out = weights.with_suffix(".onnx")
        if out.exists():
            return weights, out
        options = [
            "model.ctm=false",
            "model.input_size=64",
            "train.ema=0",
            f"model.spread={str(spread).lower()}",
        ]
        options += ["train.loss.kind=laplace"] if spread else []
        config = load_config("tiny", [*small, *options])
        torch.manual_seed(0)
        model = build_model(config.model)
        box = landmark_box(faces.face(0).landmarks)
        shape = torch.from_numpy((faces.face(0).landmarks - box[:2]) / (box[2:] - box[:2]))
        model.set_mean_shape(shape * 0.8 + 0.1)
        with torch.no_grad():
            for _ in range(20):  # until the normalisations know their statistics
                model(torch.rand(8, 3, model.input_size, model.input_size))
            model.head.weight.normal_(std=0.02)
            if model.head_spread is not None:
                model.head_spread.weight.normal_(std=0.2)
        save_checkpoint(weights, Checkpoint(config, model.state_dict(), shape.float()))
        assert export.main(["--weights", str(weights), "--out", str(out)]) == 0
        return weights, out

    return make


def check_same(found: Faces, expected: Faces, pixels: float = 1e-3) -> None:
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.landmarks, other.landmarks, rtol=0, atol=pixels)
        np.testing.assert_array_equal(one.box, other.box)
        assert one.score == pytest.approx(other.score, abs=1e-4)
        assert one.landmark_score == pytest.approx(other.landmark_score, abs=1e-4)
        assert one.roll == pytest.approx(other.roll, abs=1e-2)
        assert (one.spread is None) == (other.spread is None)
        if one.spread is not None:
            np.testing.assert_allclose(one.spread, other.spread, rtol=1e-3)


@pytest.mark.parametrize("spread", [True, False])
@pytest.mark.parametrize("flip_test", [True, False])
def test_the_faces_are_those_of_torch(
    spread: bool, flip_test: bool, pair: Callable[[bool], Pair], faces: SyntheticFaces
) -> None:
    """In given boxes, and in a detector's, whose doubtful faces are looked at again."""
    images = [faces.image(i) for i in range(3)]
    boxes = [landmark_box(faces.face(i).landmarks) for i in range(3)]

    class Known:
        name = "known"

        def detect(self, pictures: Sequence[np.ndarray]) -> list[Detections]:
            return [Detections(box[None], np.array([0.9])) for box in boxes]

    both = [
        ccdn.Predictor(path, "cpu", flip_test, detector=Known(), min_score=0.0)
        for path in pair(spread)
    ]
    expected, found = (predictor(images, boxes) for predictor in both)
    assert all(predictor.has_spread == spread for predictor in both)
    assert all((face.spread is not None) == spread for faces in found for face in faces)
    assert np.ptp([faces.landmarks[0] - faces.landmarks[0, 0] for faces in found], 0).max() > 0.1
    for one, other in zip(found, expected, strict=True):
        check_same(one, other)
    expected, found = (predictor(images) for predictor in both)
    for one, other in zip(found, expected, strict=True):
        check_same(one, other)


@pytest.mark.slow
def test_the_bundled_weights_in_both(tmp_path: Path) -> None:
    out = tmp_path / "face.onnx"
    assert export.main(["--out", str(out)]) == 0
    made = SyntheticFaces(6, seed=5, size=SIDE, pose=30)
    images = [made.image(i) for i in range(6)]
    images.append(np.rot90(images[0]).copy())
    one, other = ccdn.Predictor(out), ccdn.Predictor(DEFAULT_WEIGHTS, "cpu")
    np.testing.assert_array_equal(one.network.traits.mean_shape, other.network.traits.mean_shape)
    for found, expected in zip(one(images), other(images), strict=True):
        assert len(found) == len(expected)
        if len(found):  # a tilted crop is turned by the angle of landmarks that rounding moved
            check_same(found, expected, 0.02)


ALONE = """
import sys
from ccdn.cli.main import main

photo, weights, out = sys.argv[1:]
box = "20,20,180,180"
code = main(["predict", photo, "--weights", weights, "--out", out, "--box", box])
import ccdn
faces = ccdn.Predictor(weights)(photo, [20, 20, 180, 180])
assert len(faces) == 1 and faces[0].head_pose()
heavy = {"torch", "triton", "ccdn_ops", "omegaconf", "scipy", "h5py", "matplotlib"}
print(sorted(heavy & set(sys.modules)))
sys.exit(code)
"""


def test_without_torch(pair: Callable[[bool], Pair], faces: SyntheticFaces, tmp_path: Path) -> None:
    """The command and the predictor, in a process of their own."""
    weights, out = pair(True)
    photo = tmp_path / "photo.png"
    assert cv2.imwrite(str(photo), faces.image(0)[:, :, ::-1])
    words = [sys.executable, "-c", ALONE, photo, out, tmp_path]
    found = subprocess.run(list(map(str, words)), capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[-1] == "[]"
    (face,) = json.loads((tmp_path / "photo.json").read_text(encoding="utf-8"))["faces"]
    (expected,) = ccdn.Predictor(weights, "cpu")(photo, [20, 20, 180, 180])
    np.testing.assert_allclose(face["landmarks"], expected.landmarks, atol=2e-3)
    assert face["score"] == pytest.approx(expected.score, abs=2e-4)


SCRIPT = [block for block in blocks("python") if "import onnxruntime" in block.text]


@pytest.mark.parametrize("block", SCRIPT, ids=str)
def test_the_script_of_the_page(
    block: Block,
    pair: Callable[[bool], Pair],
    faces: SyntheticFaces,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It uses nothing of ours, and finds the landmarks that a Predictor finds in the same box."""
    assert "ccdn" not in block.text.replace('"ccdn.margin"', "")
    lines = [line for line in block.text.splitlines() if line and not line.startswith("import")]
    assert len(lines) == 12
    weights, out = pair(True)
    shutil.copy(out, tmp_path / "face.onnx")
    assert cv2.imwrite(str(tmp_path / "photo.jpg"), faces.image(0)[:, :, ::-1])
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(block.text, str(block), "exec"), names)
    wrong: dict[str, Any] = {}
    exec(block.text.replace("-0.5 - scale", "-scale"), wrong)
    box = [names[name] for name in ("x0", "y0", "x1", "y1")]
    (face,) = ccdn.Predictor(weights, "cpu")("photo.jpg", box)
    assert face.roll == 0
    apart = np.abs(names["landmarks"] - face.landmarks).max()
    assert apart < 0.1  # OpenCV samples on a grid of 1/32 pixel
    assert np.abs(wrong["landmarks"] - face.landmarks).max() > 5 * apart


def test_the_script_is_on_a_page() -> None:
    assert [block.page.name for block in SCRIPT] == ["exporting.md"]


def test_the_file_says_everything(pair: Callable[[bool], Pair]) -> None:
    import onnxruntime

    for spread, errors in ((True, "spread"), (False, "mirror")):
        weights, out = pair(spread)
        session = onnxruntime.InferenceSession(str(out))
        about = session.get_modelmeta().custom_metadata_map
        trained = ccdn.Predictor(weights, "cpu")
        assert json.loads(about["ccdn.margin"]) == trained.config.data.margin
        assert json.loads(about["ccdn.score"])["error"] == errors
        assert json.loads(about["ccdn.flip"]) == list(trained.layout.flip)
        assert "u * S - 0.5" in about["ccdn.convention"]
        found, expected = ccdn.Predictor(out).network.traits, trained.network.traits
        np.testing.assert_array_equal(found.mean_shape, expected.mean_shape)
        assert found.curve == expected.curve
        names = [value.name for value in session.get_outputs()]
        assert names == (["landmarks", "spread"] if spread else ["landmarks"])


def test_what_a_file_lacks(pair: Callable[[bool], Pair]) -> None:
    _, out = pair(False)
    predictor = ccdn.Predictor(out, threads=2)
    assert predictor.device == "cpu"
    for name in ("model", "checkpoint", "config"):
        with pytest.raises(AttributeError, match=f"of an ONNX file has no {name}"):
            getattr(predictor, name)
    with pytest.raises(ConfigError, match="computes on the CPU, found device cuda"):
        ccdn.Predictor(out, "cuda")


def test_a_file_is_read_once(pair: Callable[[bool], Pair], tmp_path: Path) -> None:
    for source in pair(False):
        path = tmp_path / source.name
        shutil.copy(source, path)
        first = ccdn.Predictor(path, "cpu").network
        assert ccdn.Predictor(path, "cpu").network is first
        assert ccdn.Predictor(path, "cpu", threads=2).network is not first
        os.utime(path, ns=(1, 1))
        assert ccdn.Predictor(path, "cpu").network is not first


def graph(**changes: Any) -> bytes:
    """A file of one node, with the metadata of a network of 5 points, and some changed."""
    from onnx import TensorProto, helper

    traits = Traits(5, 16, 0.25, False, MIRROR, np.full((5, 2), 0.5))
    about = {**metadata(traits, {"points": 5, "input_size": 16, "spread": False}), **changes}
    side = about.pop("side", 16)
    crops = helper.make_tensor_value_info("crops", TensorProto.FLOAT, ["batch", 3, side, side])
    marks = helper.make_tensor_value_info("landmarks", TensorProto.FLOAT, ["batch", 5, 2])
    shape = helper.make_tensor("shape", TensorProto.INT64, [3], [-1, 5, 2])
    nodes = [
        helper.make_node("Flatten", ["crops"], ["flat"]),
        helper.make_node("Slice", ["flat", "start", "end", "axis"], ["ten"]),
        helper.make_node("Reshape", ["ten", "shape"], ["landmarks"]),
    ]
    one = [helper.make_tensor(n, TensorProto.INT64, [1], [v]) for n, v in LIMITS.items()]
    made = helper.make_model(
        helper.make_graph(nodes, "five", [crops], [marks], [shape, *one]),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    for key, value in about.items():
        if value is not None:
            made.metadata_props.add(key=key, value=value)
    return bytes(made.SerializeToString())


LIMITS = {"start": 0, "end": 10, "axis": 1}


def test_a_file_of_other_points(tmp_path: Path) -> None:
    path = tmp_path / "five.onnx"
    path.write_bytes(graph())
    image = np.full((40, 40, 3), 51, np.uint8)
    (face,) = ccdn.Predictor(path)(image, [10, 10, 30, 30])
    assert face.landmark_score is None
    np.testing.assert_allclose(face.landmarks, 7.5 + 0.2 * 25, rtol=1e-5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "found nothing"),
        (b"text", r"found another kind of file or a truncated or damaged one \(4 bytes\)"),
        ({"ccdn.format": None}, r"\(ccdn-onnx-1\), found an older one; `ccdn export` writes"),
        ({"ccdn.format": None, "ccdn.config": None}, "found another kind of ONNX file"),
        ({"ccdn.score": "{}"}, "metadata are damaged .KeyError: 'half'"),
        ({"ccdn.margin": "NaN"}, "not finite"),
        ({"ccdn.mean_shape": "[[0, 1]]"}, "a mean shape of another size"),
        ({"ccdn.config": "[" * 100_000}, "metadata are damaged"),
        ({"side": 32}, r"expected a graph with .*\[3, 16, 16\].*, found .*\[3, 32, 32\]"),
    ],
)
def test_other_files_are_refused(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "face.onnx"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else graph(**content))
    with pytest.raises(CheckpointError, match=message) as caught:
        ccdn.Predictor(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "face.onnx"
    path.write_bytes(graph())
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"-m pip install onnxruntime`$"):
        ccdn.Predictor(path)
    photo = tmp_path / "photo.png"
    assert cv2.imwrite(str(photo), np.zeros((32, 32, 3), np.uint8))
    assert predict.main([str(photo), "--weights", str(path), "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert f"`{sys.executable} -m pip install onnxruntime`" in error
    assert error.count("\n") == 1


def test_activations_ask_for_the_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert activations.main(["photo.jpg", "--weights", str(tmp_path / "face.onnx")]) == 2
    assert "face.onnx: an ONNX file has no maps, expected the checkpoint" in capsys.readouterr().err


def test_a_predictor_takes_a_network() -> None:
    class Middle:
        traits = Traits(5, 16, 0.25, False, MIRROR, np.full((5, 2), 0.5))
        device = "cpu"

        def see(self, crops: np.ndarray, flip: Sequence[int] | None = None) -> Seen:
            return Seen(np.full((len(crops), 5, 2), 0.5, np.float32))

    (face,) = ccdn.Predictor(Middle())(np.zeros((50, 50, 3), np.uint8), [10, 10, 30, 30])
    assert (face.landmarks == 20).all()
    assert face.layout == generic_layout(5)


def test_the_benchmark_has_a_row_of_each(
    pair: Callable[[bool], Pair],
    faces: SyntheticFaces,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights, out = pair(True)
    photo = tmp_path / "photo.png"
    assert cv2.imwrite(str(photo), faces.image(0)[:, :, ::-1])
    words = [photo, "--weights", weights, "--onnx", out, "--rounds", 2, "--batch-size", 3]
    assert benchmark_predict.main(list(map(str, words))) == 0
    about, heads, *rows = capsys.readouterr().out.splitlines()
    assert about.startswith("200 x 200 pixels, ")
    assert "1 thread; the least of 2 rounds" in about
    assert heads.split() == ["one", "face", "a", "face", "of", "3", "the", "picture"]
    assert [row[:20].strip() for row in rows] == [
        "torch, as trained",
        "torch, prepared",
        "ONNX Runtime",
    ]
    for row in rows:
        assert all(float(cell) > 0 for cell in row[20:].replace("/", " ").split())
