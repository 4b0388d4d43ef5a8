"""`ccdn evaluate` with a model that always predicts the mean shape."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from ccdn.checkpoint.load import load_checkpoint
from ccdn.checkpoint.state import Checkpoint
from ccdn.checkpoint.torch_file import save_checkpoint
from ccdn.cli import evaluate
from ccdn.config import load_config
from ccdn.data import write_pts
from ccdn.models import build_model
from ccdn.plan.faces import open_training_faces
from ccdn.synthetic_faces import SyntheticFaces


def test_the_mean_shape_scores_as_its_baseline(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores"
    assert evaluate.main(["--weights", str(weights), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "box gt, margin 0.25" in text
    results = json.loads((out / "results.json").read_text())
    split = results["splits"]["test"]
    assert split["faces"] == 20
    for norm, found in split["model"].items():
        assert found == pytest.approx(split["mean_shape"][norm])
    assert 1 < split["model"]["inter_ocular"]["nme"] < 50
    assert f"{split['model']['inter_pupil']['nme']:.2f}" in text
    assert (results["box"], results["margin"], results["config"]["data"]["kind"]) == (
        "gt",
        0.25,
        "folder",
    )
    tables = {f"tables.{suffix}" for suffix in ("txt", "csv", "json", "tex")}
    pictures = {"ced.png", "faces.png", "exemplars.png", "activations.png"}
    data = {"results.json", "predictions.npz", "gallery.npz"}
    assert {path.name for path in out.iterdir()} == tables | pictures | data


def test_generated_faces_are_described(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["data.synthetic.test=4", "data.synthetic.pose=40", "data.synthetic.size=64"]
    more += ["data.synthetic.train=3"]
    out = ["--out", str(tmp_path / "o"), "--flip-test"]
    assert evaluate.main(["--weights", str(weights), "--data", "synthetic", *out, *more]) == 0
    text = capsys.readouterr().out
    assert "seed 1, yaw up to 40 degrees; with flip test" in text
    made = json.loads((tmp_path / "o/results.json").read_text())["splits"]["test"]["data"]
    assert made["generator"]["pose_degrees"] == 40
    more += ["--split", "train"]
    assert evaluate.main(["--weights", str(weights), "--data", "synthetic", *out, *more]) == 0
    assert "seed 0, yaw" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "gone.pt"], "gone.pt: expected a checkpoint file"),
        (["--weights", "W", "--data", "/nowhere"], "/nowhere"),
        (["--weights", "W", "train.lr=1"], "only fields of the data"),
        (["--weights", "W", "data.boxx=gt"], "did you mean data.box?"),
        (["--weights", "W", "--data", "synthetic", "--split", "helen"], "found 'helen'"),
        (["--weights", "W", "data.box=provided"], "provide no box"),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: list[str], message: str, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main([str(weights) if a == "W" else a for a in arguments]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1, err


def test_faces_of_the_training_are_counted(
    weights: Path, face_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--weights", str(weights), "--out", str(tmp_path / "out")]
    assert evaluate.main([*common, "data.limit=5"]) == 0
    assert "5 of the 5 faces of test are faces that the model was trained on" in (
        capsys.readouterr().err
    )
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["splits"]["test"]["data"]["seen_in_training"] == 5
    other = tmp_path / "other"
    other.mkdir()
    for name in ("face03.png", "face03.pts"):
        (other / name).write_bytes((face_folder / name).read_bytes())
    assert evaluate.main([*common, "--data", str(other)]) == 0
    assert capsys.readouterr().err == ""


def test_generated_faces_of_the_training_seed_are_counted(weights: Path) -> None:
    trained = load_checkpoint(weights).config
    trained.data.kind = "synthetic"
    now = copy.deepcopy(trained.data)
    now.synthetic.seed, now.synthetic.test_seed = 7, trained.data.synthetic.seed
    faces = SyntheticFaces(4, seed=trained.data.synthetic.seed)
    assert evaluate._seen(trained, now, "test", faces) == 4
    assert evaluate._seen(trained, trained.data, "test", faces) == 0


def test_a_face_without_a_size_is_one_line(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "two"
    folder.mkdir()
    for index in range(4):
        cv2.imwrite(str(folder / f"{index}.png"), np.full((80, 80, 3), 60 * index, np.uint8))
        write_pts(folder / f"{index}.pts", np.array([[20.0, 40.0], [60.0, 40.0]]))
    config = load_config("tiny", [*small, f"data.root={folder}", "data.kind=folder"])
    config.model.points = config.data.points = 2
    faces = open_training_faces(config)
    state = Checkpoint(config, build_model(config.model).state_dict(), faces.mean_shape)
    save_checkpoint(tmp_path / "two.pt", state)
    arguments = ["--weights", str(tmp_path / "two.pt"), "--data", str(folder.parent / "two")]
    assert evaluate.main([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert "is empty or inverted" in capsys.readouterr().err
