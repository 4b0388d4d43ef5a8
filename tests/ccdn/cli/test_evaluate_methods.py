"""`ccdn evaluate` over several methods: files of predictions, subsets, weights."""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch

from ccdn.checkpoint.state import Checkpoint
from ccdn.checkpoint.torch_file import save_checkpoint
from ccdn.cli import evaluate, report
from ccdn.config import load_config
from ccdn.data import open_faces
from ccdn.evaluation.gallery import load_gallery
from ccdn.evaluation.protocols import PROTOCOLS as KNOWN
from ccdn.inference import distributed
from ccdn.models import build_model
from ccdn.synthetic_faces import SyntheticFaces, write_protocol

# Of the README of the golden predictions: NME inter-ocular and inter-pupil of every set.
GOLDEN = {
    "helen": (2.519, 3.503),
    "lfpw": (2.687, 3.711),
    "common": (2.587, 3.587),
    "challenging": (4.662, 6.733),
    "full": (2.994, 4.203),
}
GOLDEN_RATES = {
    "common": {"inter_ocular": {"fr10": 0, "auc8": 67.66}, "inter_pupil": {"fr10": 0}},
    "challenging": {
        "inter_ocular": {"fr10": 1.48, "fr8": 3.70, "auc8": 42.44},
        "inter_pupil": {"fr10": 8.15},
    },
    "full": {
        "inter_ocular": {"fr10": 0.29, "fr8": 0.73, "auc8": 62.72, "auc10": 70.09},
        "inter_pupil": {"fr10": 1.60},
    },
}


@pytest.fixture
def weights(small: list[str], tmp_path: Path) -> Callable[..., Path]:
    """weights(name, overrides) writes a checkpoint that answers almost the same shape always."""

    def make(name: str, *overrides: str) -> Path:
        config = load_config("tiny", [*small, *overrides])
        torch.manual_seed(0)
        model = build_model(config.model)
        shape = torch.rand(config.model.points, 2)
        model.set_mean_shape(shape)
        path = tmp_path / name / "last.pt"
        save_checkpoint(path, Checkpoint(config, model.state_dict(), shape))
        return path

    return make


def run(*arguments: str | Path) -> int:
    return evaluate.main([str(argument) for argument in arguments])


def test_golden_predictions_of_300w(shared: Path, tmp_path: Path) -> None:
    file = f"SPIGA={shared / 'golden/spiga_300w_public.npz'}"
    assert run("--predictions", file, "--protocol", "300w", "--out", tmp_path) == 0
    splits = json.loads((tmp_path / "results.json").read_text())["splits"]
    for split, expected in GOLDEN.items():
        scores = splits[split]["others"]["SPIGA"]
        found = (scores["inter_ocular"]["nme"], scores["inter_pupil"]["nme"])
        assert found == pytest.approx(expected, abs=1e-3), split
        assert splits[split]["faces"] == splits[split]["official_faces"]
    for split, norms in GOLDEN_RATES.items():
        for norm, rates in norms.items():
            for key, value in rates.items():
                allowed = 0.02 if key.startswith("auc") else 0.01
                found_rate = splits[split]["others"]["SPIGA"][norm][key]
                assert found_rate == pytest.approx(value, abs=allowed), (split, norm, key)
    rows = list(csv.reader((tmp_path / "tables.csv").open()))
    ours = [row for row in rows if row and row[0] == "SPIGA"]
    assert [round(float(cell), 2) for cell in ours[0][1:4]] == [3.59, 6.73, 4.20]
    assert [round(float(cell), 2) for cell in ours[1][1:4]] == [2.59, 4.66, 2.99]


def test_golden_predictions_of_cofw68(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    golden = shared / "golden/spiga_cofw68.npz"
    assert run("--predictions", golden, "--protocol", "cofw68", "--out", tmp_path) == 0
    scores = json.loads((tmp_path / "results.json").read_text())["splits"]["test"]["others"]
    ocular, pupil = (scores["spiga_cofw68"][norm] for norm in ("inter_ocular", "inter_pupil"))
    assert (ocular["nme"], pupil["nme"]) == pytest.approx((3.935, 5.509), abs=1e-3)
    assert (ocular["fr10"], pupil["fr10"]) == pytest.approx((0.79, 2.96), abs=0.01)
    text = capsys.readouterr().out
    assert "Table 3: NME and failure rate at 10 % on COFW, inter-pupil [%]" in text
    assert "on COFW-68's 68 points" in text


def test_golden_predictions_next_to_a_network_on_the_same_helen_faces(
    shared: Path, weights: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The photographs were cut and scaled: faces are recognised, and the scores are the same."""
    arguments = ["--weights", weights("a"), "--data", shared / "300w", "--protocol", "300w"]
    arguments += ["--predictions", f"SPIGA={shared / 'golden/spiga_300w_public.npz'}"]
    assert run(*arguments, "--out", tmp_path / "out", "--batch-size", "64") == 0
    text = capsys.readouterr().out
    assert "not the official test set: full 330 of 689, common 330 of 554" in text
    splits = json.loads((tmp_path / "out/results.json").read_text())["splits"]
    assert set(splits) == {"full", "common", "helen"}
    assert splits["helen"]["official_faces"] == 330
    scores = splits["helen"]["others"]["SPIGA"]
    assert scores["inter_ocular"]["nme"] == pytest.approx(2.519, abs=2e-3)
    assert splits["helen"]["model"]["inter_ocular"]["nme"] > 5
    assert report.main([str(tmp_path / "out"), "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "not the official test set: full 330 of 689" in page
    curves = json.loads(page.split('id="data">')[1].split("</script>")[0])["runs"][0]["sets"][0]
    assert {name: len(e) for name, e in curves["errors"]["inter_ocular"].items()} == {
        "model": 330,
        "SPIGA": 330,
        "mean shape": 330,
    }


@pytest.mark.filterwarnings("ignore:.*not the official one")
def test_cofw68_text_against_its_annotation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """COFW-68 lies on disk as its authors publish it; its images are not needed to score."""
    random = np.random.default_rng(0)
    folder = tmp_path / "COFW68_Data" / "test_annotations"
    folder.mkdir(parents=True)
    lines = []
    for number in (1, 2, 3):
        points = random.uniform(20, 200, (68, 2))
        occluded = np.zeros((1, 68))
        scipy.io.savemat(folder / f"{number}_points.mat", {"Points": points, "Occ": occluded})
        eyes = np.linalg.norm(points[36] - points[45])
        x, y = points.T + np.array([[0.03 * number * eyes], [0]])  # an NME of 3, 6 and 9 %
        lines[:0] = [str(number), *(" ".join(map(repr, v.tolist())) for v in (x, y)), "0 " * 68]
    (tmp_path / "method.txt").write_text("\n".join(lines))
    data = ["--data", folder.parent, "--protocol", "cofw68", "--out", tmp_path / "out"]
    assert run("--predictions", tmp_path / "method.txt", *data) == 0
    split = json.loads((tmp_path / "out/results.json").read_text())["splits"]["test"]
    assert split["others"]["method"]["inter_ocular"]["nme"] == pytest.approx(6, abs=1e-4)
    assert (split["faces"], split["official_faces"]) == (3, 507)
    assert "not the official test set: test 3 of 507 faces" in capsys.readouterr().out


# Of each protocol: the kind of its data, the tables that are filled, a cell of ours.
PROTOCOLS = {
    "300w": ("300w", {"table2-inter-pupil", "table2-inter-ocular"}, ("full", 3)),
    "wflw": ("wflw", {"table5-inter-ocular", "table5-inter-pupil"}, ("test", 1)),
    "cofw29": ("cofw", {"table3-inter-pupil", "table3-inter-ocular"}, ("test", 1)),
    "aflw": ("aflw", {"table4-face-size"}, ("test", 1)),
}


@pytest.mark.filterwarnings("ignore:.*not the official one")
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_face_is_predicted_once(
    protocol: str, weights: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Generated faces in each official format: subsets are read off one set, tables are filled."""
    kind, names, (split, column) = PROTOCOLS[protocol]
    points = KNOWN[protocol].points
    made = [SyntheticFaces(n, seed=n, size=64, points=points) for n in (1, 8)]
    write_protocol(kind, tmp_path / "data", *made)
    calls: list[int] = []
    real = distributed.predict_faces

    def counted(model, crops, *more, **named):  # type: ignore[no-untyped-def]
        calls.append(len(crops))
        return real(model, crops, *more, **named)

    monkeypatch.setattr(distributed, "predict_faces", counted)
    path = weights("w", f"model.points={points}")
    data = ["--data", tmp_path / "data", "--protocol", protocol, "--out", tmp_path / "out"]
    assert run("--weights", path, *data) == 0
    assert calls == [8]
    splits = json.loads((tmp_path / "out/results.json").read_text())["splits"]
    for name, found in splits.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert found["faces"] == len(open_faces(kind, tmp_path / "data", name)), name
    tables = {t["name"]: t for t in json.loads((tmp_path / "out/tables.json").read_text())}
    assert tables.keys() == names | {"scores"}
    for name in names:
        norm = name.split("-", 1)[1].replace("-", "_")
        ours = tables[name]["rows"][-1]
        assert ours["cells"][column] == splits[split]["model"][norm]["nme"]


def test_two_networks_of_two_and_four_excitations(
    face_folder: Path, weights: Callable[..., Path], tmp_path: Path
) -> None:
    four, two = weights("p4", "model.excitations=4"), weights("p2", "model.excitations=2")
    out = tmp_path / "out"
    given = ["--weights", four, "--weights", two, "--data", face_folder, "--out", out]
    assert run(*given) == 0
    split = json.loads((out / "results.json").read_text())["splits"]["test"]
    assert split["others"].keys() == {"p2"}
    gallery = load_gallery(out / "gallery.npz")
    assert len(gallery.pictures) == 20
    assert all(picture[:2] == b"\xff\xd8" for picture in gallery.pictures)
    # Its own predictions, read back, are scored as they were.
    again = tmp_path / "again"
    assert run("--predictions", f"again={out / 'predictions.npz'}", "--out", again) == 0
    scores = json.loads((again / "results.json").read_text())["splits"]["test"]["others"]["again"]
    assert scores == split["model"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--predictions", "gone.npz"], "gone.npz: file not found"),
        (["--predictions", "P", "--protocol", "wflw"], "found 5 points, expected the 98 of wflw"),
        (["--predictions", "P", "--split", "pose"], "found the subsets test, expected 'pose'"),
        (["--predictions", "P", "--predictions", "P"], "two methods are called 'five'"),
        (["--weights", "W", "--protocol", "wflw"], "--protocol wflw has 98 points, found 68"),
        (
            ["--weights", "W", "--weights", "V", "--data", "synthetic"],
            "found a network of 5 points, expected 68",
        ),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: list[str],
    message: str,
    weights: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    points = np.random.default_rng(0).uniform(0, 9, (3, 5, 2))
    np.savez(tmp_path / "five.npz", pred=points, gt=points)
    places = {"P": tmp_path / "five.npz"}
    places |= {"W": weights("w"), "V": weights("v", "model.points=5")}
    out = ["--out", tmp_path / "out"]
    assert run(*(places.get(a, a) for a in arguments), *out) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1, err


def test_without_weights_the_bundled_ones_are_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("--data", "synthetic", "data.synthetic.test=4") == 0
    assert "no --weights given; using the bundled model" in capsys.readouterr().err
    found = json.loads((tmp_path / "evaluation/results.json").read_text())["splits"]["test"]
    assert found["faces"] == 4
    assert found["model"]["inter_ocular"]["nme"] < found["mean_shape"]["inter_ocular"]["nme"]
