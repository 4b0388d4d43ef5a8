"""The names of the results of `ccdn predict`, and files that they must not replace."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from predicting import run, use_detector

from ccdn.cli import predict
from ccdn.data import (
    DataError,
    read_folder,
)
from ccdn.inference.output_names import result_names
from ccdn.inference.sources import Source


def test_a_name_that_is_not_text(
    weights: Path, face_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names of files are bytes: neither the files of the results nor the terminal stumble."""
    name = os.fsdecode(b"\xff face")
    image = tmp_path / f"{name}.png"
    try:
        image.write_bytes((face_folder / "face00.png").read_bytes())
    except OSError:
        pytest.skip("this file system wants names in UTF-8")
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    out = tmp_path / "out"
    more = ["--box", "10,10,80,90", "--write", "picture,json,csv,pts", "--out", out]
    assert run(image, "--weights", weights, *more) == 0
    wanted = {f"{name}_landmarks.png", f"{name}.json", f"{name}.pts", "landmarks.csv"}
    assert {path.name for path in out.iterdir()} == wanted
    assert os.fsencode(image) in (out / "landmarks.csv").read_bytes()
    terminal.flush()
    assert b"\\udcff face.png: 1 face" in terminal.buffer.getvalue()  # type: ignore[attr-defined]


def test_annotations_are_not_replaced(
    weights: Path, face_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, pts = face_folder / "face00.png", face_folder / "face00.pts"
    before = pts.read_bytes()
    arguments = [str(image), "--pts", str(pts), "--weights", str(weights)]
    assert predict.main([*arguments, "--out", str(face_folder)]) == 2
    assert "face00.pts" in capsys.readouterr().err
    assert pts.read_bytes() == before


def test_a_face_of_several_is_never_read_as_that_of_a_picture(
    weights: Path,
    face_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Next to the pictures, where readers of training data expect .pts files."""
    boxes = [np.array([10.0, 10, 80, 90]), np.array([20.0, 20, 60, 60])]
    use_detector(monkeypatch, lambda image: boxes)
    picture = (face_folder / "face00.png").read_bytes()
    for name in ("a.png", "a_1.png", "a_2.png"):
        (tmp_path / name).write_bytes(picture)
    write = ["--write", "pts", "--weights", weights, "--out", tmp_path]
    assert run(tmp_path / "a.png", *write) == 0
    assert {path.name for path in tmp_path.glob("*.pts")} == {"a_face1.pts", "a_face2.pts"}
    with pytest.raises(DataError, match=r"a\.pts: annotation not found, expected next to a\.png"):
        read_folder(tmp_path)
    for path in tmp_path.glob("a*.png"):
        path.unlink()
    with pytest.raises(DataError, match=r"a_face1\.pts: expected one image of the same name"):
        read_folder(tmp_path)
    # A picture that is called as the face is.
    (tmp_path / "in").mkdir()
    (tmp_path / "in/b.png").write_bytes(picture)
    (tmp_path / "b_face2.jpg").write_bytes(picture)
    assert run(tmp_path / "in/b.png", *write) == 2
    assert "b_face2.pts would be read as the landmarks of another pict" in capsys.readouterr().err
    assert not list(tmp_path.glob("b*.pts"))
    boxes.pop()
    (tmp_path / "b.jpg").write_bytes(picture)
    assert run(tmp_path / "in/b.png", *write) == 2
    assert run(tmp_path / "b.jpg", *write) == 0


def test_a_line_break_in_a_name_is_no_second_line(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a\nb.png").touch()
    assert run(tmp_path / "a\nb.png", "--weights", weights, "--out", tmp_path / "out") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "a\\nb.png: the image file is empty" in line


def test_a_very_long_name(
    weights: Path, face_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names of results are longer than those of pictures, and no name has more than 255 bytes."""
    pictures = []
    for end in ("ä", "ö"):
        pictures.append(tmp_path / f"{'ü' * 120}{end}.png")
        pictures[-1].write_bytes((face_folder / "face00.png").read_bytes())
    out = tmp_path / "out"
    box = [np.array([10.0, 10, 80, 90])]
    use_detector(monkeypatch, lambda image: box)
    assert run(*pictures, "--weights", weights, "--out", out) == 0
    found = sorted(json.loads(path.read_text())["image"] for path in out.glob("*.json"))
    assert found == sorted(str(path) for path in pictures)
    longer = tmp_path / ("x" * 300)  # no file can have this name
    assert run(longer, pictures[0], "--weights", weights, "--out", out) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.json", "holds a.json: expected a folder without it"),
        ("a.csv", "holds a.csv: expected a folder without it"),
        ("a_landmarks.jpg", "the input a_landmarks.jpg would be replaced by a result"),
        ("a_landmarks.png", "the input a_landmarks.png would be replaced by a result"),
    ],
)
def test_inputs_and_notes_are_not_replaced(
    name: str, message: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((60, 60, 3), np.uint8))
    write = ["--weights", weights, "--out", tmp_path, "--write", "picture,json,csv"]
    assert run(tmp_path / "a.png", *write) == 3
    if name.endswith("json"):
        assert run(tmp_path / "a.png", *write) == 3  # its own results are
    (tmp_path / name).write_bytes(b"notes")
    pictures = [tmp_path / "a.png", *([tmp_path / name] if "landmarks" in name else [])]
    assert run(*pictures, *write) == 2
    assert message in capsys.readouterr().err
    assert (tmp_path / name).read_bytes() == b"notes"


def test_results_have_names_of_their_own() -> None:
    files = ["a.jpg", "a.png", "a_face2.png", "b/a.png", "b/c.png", "a_jpg.png", "solo_face7.jpg"]
    files += ["A.mp4", "landmarks.mp4", "c_face.png"]
    found = [*(Source(Path(name)) for name in files), Source(Path("camera_0"), 0)]
    found.append(Source(Path("camera_0")))
    taken = result_names(found)
    assert len({name.casefold() for name in taken}) == len(found)
    names = {source.path: name for source, name in zip(found, taken, strict=True)}
    # A picture a with several faces would write a_face1, a_face2, ...
    assert names[Path("a_face2.png")] == "a_face2_png"
    assert (names[Path("b/c.png")], names[Path("solo_face7.jpg")]) == ("c", "solo_face7")
    # All pictures' table is landmarks.csv, a film's has the film's name.
    assert (names[Path("landmarks.mp4")], names[Path("A.mp4")]) == ("landmarks_mp4", "A_mp4")
    assert names[Path("c_face.png")] == "c_face"
