"""The bundled weights: small, trained on generated faces alone, and as good as documented."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import safetensors

import ccdn
from ccdn.checkpoint.bundled import DEFAULT_WEIGHTS, about
from ccdn.checkpoint.load import load_checkpoint
from ccdn.cli import evaluate, predict
from ccdn.config import differences, load_config
from ccdn.data import landmark_box
from ccdn.evaluation.metrics import nme
from ccdn.synthetic_faces import SyntheticFaces


def test_the_file_is_small_and_of_generated_faces() -> None:
    assert DEFAULT_WEIGHTS.stat().st_size < 6e6
    with safetensors.safe_open(DEFAULT_WEIGHTS, "np") as file:
        kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    assert kinds == {"F16", "F32", "I64"}
    checkpoint, said = load_checkpoint(DEFAULT_WEIGHTS), about()
    assert checkpoint.data["kind"] == "synthetic"
    assert checkpoint.data["generator"]["version"] == said.generator
    assert checkpoint.data["faces"] == checkpoint.faces == said.faces
    assert checkpoint.config.train.epochs == said.epochs
    assert checkpoint.data["generator"].get("fresh", False) == said.fresh
    assert bool(said.earlier) == bool(checkpoint.config.train.init)
    assert f"{said.different_faces:,} generated faces" in str(said)
    # What reproduces them is the preset.
    found = differences(load_config(said.config), checkpoint.config)
    assert set(found) <= {"data.kind", "data.eval_splits"}, found
    # Neither a folder of the machine that trained them nor a name of its pictures.
    assert checkpoint.config.data.root is None
    assert not Path(checkpoint.config.train.out).is_absolute()
    assert not Path(checkpoint.config.train.init).is_absolute()


@pytest.mark.check
def test_they_find_the_landmarks_of_generated_faces() -> None:
    """Faces of another seed than those of training."""
    faces = SyntheticFaces(count=24, seed=7, points=68)
    predictor = ccdn.Predictor(device="cpu")
    errors = []
    for index in range(len(faces)):
        truth = faces.face(index).landmarks
        found = predictor(faces.image(index), [landmark_box(truth)])
        errors += [*nme(found.landmarks, truth[None])]
    assert np.mean(errors) < 0.12


@pytest.mark.check
def test_predict_says_what_it_uses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "grey.png"
    cv2.imwrite(str(picture), np.full((90, 90, 3), 128, np.uint8))
    out = ["--out", str(tmp_path / "out"), "--box", "10,10,80,80"]
    assert predict.main([str(picture), *out]) == 0
    printed = capsys.readouterr().err
    assert "no --weights given; using the bundled model" in printed
    assert f"{about().helen_nme:.2f} % inter-ocular" in printed
    assert len(json.loads((tmp_path / "out/grey.json").read_text())["faces"][0]["landmarks"]) == 68


@pytest.mark.slow
def test_they_are_as_good_as_they_say(shared: Path, tmp_path: Path) -> None:
    own = ["--weights", str(DEFAULT_WEIGHTS), "--data", str(shared / "300w")]
    assert evaluate.main([*own, "--protocol", "300w", "--out", str(tmp_path)]) == 0
    scores = json.loads((tmp_path / "results.json").read_text())["splits"]["helen"]
    assert scores["faces"] == 330
    assert scores["model"]["inter_ocular"]["nme"] == pytest.approx(about().helen_nme, abs=0.01)
    mean_shape = scores["mean_shape"]["inter_ocular"]["nme"]
    assert mean_shape == pytest.approx(about().mean_shape_nme, abs=0.01)
