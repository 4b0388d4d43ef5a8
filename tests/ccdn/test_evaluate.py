"""`python -m ccdn.evaluate` and `python -m ccdn.predict` with a model that has learnt a little."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from ccdn import evaluate, predict
from ccdn.config import load_config
from ccdn.data import read_pts, write_pts
from ccdn.data.synthetic import SyntheticFaces
from ccdn.models import build_model
from ccdn.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from ccdn.training.faces import open_training_faces


@pytest.fixture
def weights(face_folder: Path, small: list[str], tmp_path: Path) -> Path:
    """A checkpoint of a model that answers the mean shape."""
    config = load_config("tiny", [*small, f"data.root={face_folder}", "data.kind=folder"])
    faces = open_training_faces(config)
    model = build_model(config.model)
    model.head.weight.data.zero_()
    model.set_mean_shape(faces.mean_shape)
    state = Checkpoint(config, model.state_dict(), faces.mean_shape, data=faces.description)
    save_checkpoint(tmp_path / "weights.pt", state)
    return tmp_path / "weights.pt"


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


def test_landmarks_in_a_box(
    weights: Path, face_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, pts = face_folder / "face00.png", face_folder / "face00.pts"
    out = tmp_path / "drawn"
    common = ["--weights", str(weights), "--out", str(out)]
    assert predict.main([str(image), "--pts", str(pts), *common]) == 0
    assert f"{image}: 1 face" in capsys.readouterr().out
    found, truth = read_pts(out / "face00.pts"), read_pts(pts)
    eyes = np.linalg.norm(truth[36] - truth[45])
    assert np.linalg.norm(found - truth, axis=1).mean() < 0.5 * eyes
    record = json.loads((out / "face00.json").read_text())
    assert np.allclose(record["faces"][0]["landmarks"], found, atol=1e-2)
    drawn, plain = cv2.imread(str(out / "face00_landmarks.png")), cv2.imread(str(image))
    assert drawn.shape == plain.shape
    assert (drawn != plain).any()
    x0, y0 = truth.min(0)
    x1, y1 = truth.max(0)
    assert predict.main([str(image), "--box", f"{x0},{y0},{x1},{y1}", *common]) == 0
    assert np.allclose(read_pts(out / "face00.pts"), found, atol=1e-2)


def test_pictures_that_cannot_be_used(
    weights: Path, face_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--weights", str(weights), "--out", str(tmp_path / "out")]
    assert predict.main([str(tmp_path / "gone.jpg"), *common]) == 2
    assert "gone.jpg: image not found" in capsys.readouterr().err
    grey = tmp_path / "grey.png"
    cv2.imwrite(str(grey), np.full((80, 80, 3), 128, np.uint8))
    assert predict.main([str(grey), *common]) == 3
    assert "grey.png: the detector found no face" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert predict.main([str(tmp_path / "empty"), *common]) == 2
    assert "empty: expected pictures" in capsys.readouterr().err
    assert predict.main([str(grey), "--weights", str(grey)]) == 2
    assert "grey.png: expected a checkpoint" in capsys.readouterr().err
    box = ["--box", "0,0,9,9"]
    assert predict.main([str(face_folder), *box, *common]) == 2
    assert "one picture, found 20" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        predict.main([str(grey), "--box", "9,9,0,0", *common])
    assert stop.value.code == 2
    assert "x0 < x1" in capsys.readouterr().err


def test_a_folder_goes_on_after_a_bad_picture(
    weights: Path, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a_broken.jpg").write_bytes(b"\xff\xd8 no picture")
    photo = min((shared / "300w/helen/testset").glob("*.jpg"))
    (folder / "b_face.jpg").write_bytes(photo.read_bytes())
    out = tmp_path / "out"
    assert predict.main([str(folder), "--weights", str(weights), "--out", str(out)]) == 2
    err = capsys.readouterr().err
    assert "a_broken.jpg" in err
    assert "b_face" not in err
    assert json.loads((out / "b_face.json").read_text())["faces"]


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


@pytest.mark.parametrize("box", ["-50,-50,-10,-10", "1e30,1,2e30,5", "0,0,1e30,1e30"])
def test_a_box_beside_the_picture(
    box: str, weights: Path, face_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = [str(face_folder / "face00.png"), f"--box={box}", "--out", str(out)]
    assert predict.main([*arguments, "--weights", str(weights)]) == 2
    printed = capsys.readouterr()
    assert "overlaps the picture of 96 x 96 pixels" in printed.err
    assert printed.out == ""  # nothing was written, and nothing else is claimed
    assert not out.exists()


def test_annotations_are_not_replaced(
    weights: Path, face_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, pts = face_folder / "face00.png", face_folder / "face00.pts"
    before = pts.read_bytes()
    arguments = [str(image), "--pts", str(pts), "--weights", str(weights)]
    assert predict.main([*arguments, "--out", str(face_folder)]) == 2
    assert "face00.pts" in capsys.readouterr().err
    assert pts.read_bytes() == before


def test_results_have_names_of_their_own() -> None:
    files = ["a.jpg", "a.png", "a_2.png", "b/a.png", "b/c.png", "a_jpg.png", "solo_7.jpg"]
    names = predict._names([Path(name) for name in files])
    assert len(set(names.values())) == len(files)
    # A picture a with several faces would write a_1, a_2, ...
    assert names[Path("a_2.png")] == "a_2_png"
    assert (names[Path("b/c.png")], names[Path("solo_7.jpg")]) == ("c", "solo_7")
