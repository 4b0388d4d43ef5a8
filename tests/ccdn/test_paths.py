"""Every command in folders whose names have spaces, quotes and letters of many scripts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from ccdn.cli import ablate, activations, data, evaluate, export, predict, report, train
from ccdn.data import open_faces

STRANGE = "Größe of 顔's & (лица) [1] 100% a=b"


@pytest.fixture(scope="module")
def strange(face_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paths") / STRANGE
    shutil.copytree(face_folder, folder / "faces")
    return folder


@pytest.fixture(scope="module")
def weights(strange: Path, small: list[str]) -> Path:
    out = strange / "a run"
    arguments = ["--config", "tiny", "--data", str(strange / "faces"), "--out", str(out)]
    assert train.main([*arguments, *small, "train.epochs=1"]) == 0
    assert train.main(["--resume", "--out", str(out)]) == 0
    return out / "last.pt"


def test_measure_and_report(weights: Path, strange: Path) -> None:
    out = strange / "an evaluation"
    assert evaluate.main(["--weights", f"ours={weights}", "--out", str(out)]) == 0
    # A file's own name may have an equals sign.
    assert evaluate.main(["--predictions", str(out / "predictions.npz"), "--out", str(out)]) == 0
    assert report.main([str(weights.parent), str(out), "--out", str(strange / "a page.html")]) == 0
    assert (strange / "a page.html").stat().st_size > 10_000


def test_predict(weights: Path, strange: Path) -> None:
    photo, film = strange / "Фото 1.png", strange / "ビデオ 1.avi"
    shutil.copy(strange / "faces/face00.png", photo)
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter.fourcc(*"MJPG"), 25, (96, 96))
    for _ in range(3):
        writer.write(np.zeros((96, 96, 3), np.uint8))
    writer.release()
    out = strange / "out put"
    common = ["--weights", str(weights), "--out", str(out), "--write", "picture,json,csv,pts"]
    assert predict.main([str(photo), "--box", "10,10,80,90", *common]) == 0
    assert predict.main([str(film), *common]) == 3  # black, without a face
    names = {path.name for path in out.iterdir()}
    assert {"Фото 1_landmarks.png", "Фото 1.pts", "ビデオ 1_landmarks.mp4"} <= names
    assert json.loads((out / "Фото 1.json").read_text())["image"] == str(photo)
    assert str(photo) in (out / "landmarks.csv").read_text("utf-8")
    maps = strange / "maps é.png"
    box = ["--box", "10,10,80,90"]
    assert activations.main([str(photo), *box, "--weights", str(weights), "--out", str(maps)]) == 0
    assert maps.stat().st_size > 1000


@pytest.mark.slow
def test_export(weights: Path, strange: Path) -> None:
    out = strange / "ein Netz.safetensors"
    assert export.main(["--weights", str(weights), "--out", str(out)]) == 0
    assert evaluate.main(["--weights", str(out), "--out", str(strange / "of the export")]) == 0


@pytest.mark.slow
def test_ablate(strange: Path, small: list[str]) -> None:
    grid = strange / "ein Gitter.yaml"
    grid.write_text("config: tiny\nvariants: [fcdn]\nexcitations: [2]\nseeds: [0]\n")
    out = strange / "a grid"
    arguments = ["--grid", str(grid), "--data", str(strange / "faces"), "--out", str(out)]
    assert ablate.main([*arguments, *small, "train.epochs=1"]) == 0
    assert "FCDN" in (out / "table.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("protocol", "kind", "split"),
    [("300w", "300w", "train"), ("wflw", "wflw", "train"), ("cofw", "cofw", "train")],
)
@pytest.mark.filterwarnings("ignore:.*expected")
@pytest.mark.filterwarnings("ignore:.*official")
def test_data(protocol: str, kind: str, split: str, strange: Path) -> None:
    out = strange / f"made as {protocol}"
    made = ["synthesize", "--protocol", protocol, "--train", "2", "--test", "1", "--out", str(out)]
    assert data.main(made) == 0
    faces = open_faces(kind, out, split)
    assert len(faces) == 2
    assert faces.image(1).shape[2] == 3
    assert data.main(["inspect", kind, str(out), "--split", split, "--out", str(out / "s é")]) == 0
