"""`ccdn predict` of pictures and folders."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from predicting import run, use_detector, watch_batches

from ccdn.cli import predict
from ccdn.data import (
    detect_faces,
    generic_layout,
    landmark_box,
    read_300w,
    read_pts,
    square_box,
)
from ccdn.data.boxes import overlap
from ccdn.inference import pipeline
from ccdn.inference.results import Face, Faces
from ccdn.inference.writers import StillResults
from ccdn.runtime.processes import Processes


def test_each_process_predicts_on_its_own_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").touch()
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)

    def asked(weights: str, device: str, *_: Any) -> None:
        raise LookupError(device)

    monkeypatch.setattr(predict, "Predictor", asked)
    options = predict._parser().parse_args([str(tmp_path / "a.png"), "--weights", "w.pt"])
    for rank in range(2):
        with pytest.raises(LookupError, match=f"cuda:{rank}"):
            predict._predict(options, Processes(rank, 2, rank))


def test_100_pictures_of_which_3_are_broken(
    weights: Path,
    tmp_path: Path,
    face_folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    picture = (face_folder / "face00.png").read_bytes()
    for i in range(100):
        (folder / f"{i:03}.png").write_bytes(picture)
    broken = ("004.png", "050.png", "099.png")
    for name, content in zip(broken, (b"", picture[:200], b"no picture"), strict=True):
        (folder / name).write_bytes(content)
    # The cascade does not find made-up faces; another test covers what it finds.
    found = [np.array([10.0, 10, 80, 90])]
    use_detector(monkeypatch, lambda image: found)
    assert run(folder, "--weights", weights, "--out", out, "--write", "json,csv,pts") == 1
    printed = capsys.readouterr()
    assert len(list(out.glob("*.json"))) == len(list(out.glob("*.pts"))) == 97
    for name in broken:
        assert name in printed.err
    assert printed.err.count("\n") == 3
    assert "100 inputs: 97 written, 97 faces, 0 without a face, 3 not readable" in printed.out
    rows = list(csv.DictReader((out / "landmarks.csv").open()))
    assert len(rows) == 97
    record = json.loads((out / "000.json").read_text())["faces"][0]
    assert [float(rows[0]["x0"]), float(rows[0]["y67"])] == pytest.approx(
        [record["landmarks"][0][0], record["landmarks"][67][1]]
    )


def test_two_photographs_in_one_picture_are_two_results(
    weights: Path, shared: Path, tmp_path: Path
) -> None:
    faces = read_300w(shared / "300w", "helen/testset")
    images = [faces.image(i) for i in (0, 1)]
    height = max(image.shape[0] for image in images)
    padded = [np.pad(i, ((0, height - i.shape[0]), (0, 0), (0, 0))) for i in images]
    both = np.concatenate(padded, axis=1)
    cv2.imwrite(str(tmp_path / "both.png"), both[:, :, ::-1])
    out = tmp_path / "out"
    assert run(tmp_path / "both.png", "--weights", weights, "--out", out) == 0
    found = json.loads((out / "both.json").read_text())["faces"]
    assert len(found) == 2
    assert {face["pts"] for face in found} == {"both_face1.pts", "both_face2.pts"}
    shift = np.array([[0, 0], [images[0].shape[1], 0]])
    for i in (0, 1):
        wanted = square_box(landmark_box(faces.face(i).landmarks + shift[i]))
        assert max(overlap(np.array(face["box"]), wanted) for face in found) > 0.5


def test_a_sample_photograph_has_its_own_face_first(shared: Path) -> None:
    """Every sample but the crowd, where any of many faces may come first."""
    checked = 0
    for path in sorted((shared / "samples/mmpose_json").glob("*/*.json")):
        content = json.loads(path.read_text())
        names = {image["id"]: Path(image["file_name"]).name for image in content["images"]}
        for note in content["annotations"]:
            if sum(other["image_id"] == note["image_id"] for other in content["annotations"]) > 1:
                continue
            image = cv2.imread(str(path.parent / names[note["image_id"]]))
            points = np.array(note["keypoints"]).reshape(-1, 3)[:, :2]
            found = detect_faces(np.ascontiguousarray(image[:, :, ::-1]))
            wanted = square_box(landmark_box(points))
            assert overlap(found[0], wanted) > 0.5, names[note["image_id"]]
            checked += 1
    assert checked == 7


@pytest.mark.parametrize(
    ("suffix", "drawn"),
    [(".jpg", ".jpg"), (".JPEG", ".jpg"), (".jfif", ".jpg"), (".png", ".png"), (".bmp", ".png")],
)
def test_a_jpeg_is_drawn_as_one(
    suffix: str, drawn: str, weights: Path, face_folder: Path, tmp_path: Path
) -> None:
    image = cv2.imread(str(face_folder / "face00.png"))
    encoded = cv2.imencode({".jfif": ".jpg"}.get(suffix, suffix), image)[1]
    (tmp_path / f"photo{suffix}").write_bytes(encoded.tobytes())
    more = ["--box", "10,10,80,90", "--write", "picture", "--out", tmp_path / "out"]
    assert run(tmp_path / f"photo{suffix}", "--weights", weights, *more) == 0
    (written,) = (tmp_path / "out").iterdir()
    assert written.name == f"photo_landmarks{drawn}"
    start = {".jpg": b"\xff\xd8\xff", ".png": b"\x89PNG"}[drawn]
    assert written.read_bytes().startswith(start)
    assert cv2.imread(str(written)).shape == image.shape


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
    assert predict.main([str(tmp_path / "gone.jpg"), *common]) == 1
    assert "gone.jpg: image not found" in capsys.readouterr().err
    grey = tmp_path / "grey.png"
    cv2.imwrite(str(grey), np.full((80, 80, 3), 128, np.uint8))
    assert predict.main([str(grey), *common]) == 3
    assert "grey.png: no face detected; pass --box" in capsys.readouterr().err
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


def test_a_folder_continues_after_a_bad_picture(
    weights: Path, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a_broken.jpg").write_bytes(b"\xff\xd8 no picture")
    photo = min((shared / "300w/helen/testset").glob("*.jpg"))
    (folder / "b_face.jpg").write_bytes(photo.read_bytes())
    out = tmp_path / "out"
    assert predict.main([str(folder), "--weights", str(weights), "--out", str(out)]) == 1
    err = capsys.readouterr().err
    assert "a_broken.jpg" in err
    assert "b_face" not in err
    assert json.loads((out / "b_face.json").read_text())["faces"]


@pytest.mark.parametrize("box", ["-50,-50,-10,-10", "1e30,1,2e30,5", "0,0,1e30,1e30"])
def test_a_box_outside_the_picture(
    box: str, weights: Path, face_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = [str(face_folder / "face00.png"), f"--box={box}", "--out", str(out)]
    assert predict.main([*arguments, "--weights", str(weights)]) == 2
    printed = capsys.readouterr()
    assert "overlaps the picture of 96 x 96 pixels" in printed.err
    assert printed.out == ""  # nothing was written, and nothing is said to have been
    assert not out.exists()


def test_a_picture_that_cannot_be_written_does_not_end_the_others(
    weights: Path,
    face_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = [np.array([10.0, 10, 80, 90])]
    use_detector(monkeypatch, lambda image: found)
    pictures = sorted(face_folder.glob("*.png"))[:3]
    out = tmp_path / "out"
    (out / "face01_landmarks.png").mkdir(parents=True)
    assert run(*pictures, "--weights", weights, "--out", out, "--write", "picture,csv") == 1
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert "face01_landmarks.png" in line
    assert "3 inputs: 2 written, 3 faces" in printed.out
    assert "0 not readable, 1 not writable" in printed.out
    assert (out / "face02_landmarks.png").is_file()
    rows = list(csv.DictReader((out / "landmarks.csv").open()))
    assert [Path(row["image"]).name for row in rows] == ["face00.png", "face02.png"]
    (out / "landmarks.csv").unlink()
    (out / "landmarks.csv").mkdir()
    assert run(*pictures, "--weights", weights, "--out", out, "--write", "json,csv") == 1
    assert "landmarks.csv" in capsys.readouterr().err
    assert len(list(out.glob("*.json"))) == 3


@pytest.mark.parametrize("out", ["file", "file/out", "link"])
def test_an_impossible_folder_is_reported_once(
    out: str,
    weights: Path,
    face_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before the network has looked at a thousand pictures."""
    monkeypatch.setattr(predict.Predictor, "landmarks", None)
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    assert run(face_folder, "--weights", weights, "--out", tmp_path / out) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / out) in line
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("interrupted", [False, True])
def test_the_table_of_several_processes(interrupted: bool, tmp_path: Path) -> None:
    """The first writes it, in the order of the inputs; not where some have ended early."""
    group = Processes(0, 2, 0)
    layout = generic_layout(68)
    results = StillResults(tmp_path, {"csv"}, layout, "given", group)
    face = Faces([Face(np.zeros((68, 2), np.float32), np.zeros(4), layout)], layout)
    for place in (4, 0, 2):
        results.add(Path(f"{place}.png"), place, str(place), np.zeros((4, 4, 3), np.uint8), face)
    results.close(interrupted)
    assert (tmp_path / "landmarks.csv").exists() != interrupted
    if not interrupted:
        rows = list(csv.DictReader((tmp_path / "landmarks.csv").open()))
        assert [row["image"] for row in rows] == ["0.png", "2.png", "4.png"]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_request_leaves_whole_results(
    signum: signal.Signals,
    weights: Path,
    face_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    def detect(image: np.ndarray) -> list[np.ndarray]:
        seen.append(image)
        if len(seen) == 4:
            signal.raise_signal(signum)
        return [np.array([10.0, 10, 80, 90])]

    use_detector(monkeypatch, detect)
    arguments = ["--weights", weights, "--out", tmp_path, "--write", "json,csv"]
    assert run(face_folder, *arguments) == 128 + signum
    assert len(list(tmp_path.glob("*.json"))) == 4
    assert len(list(csv.DictReader((tmp_path / "landmarks.csv").open()))) == 4
    assert not list(tmp_path.glob(".*"))


def test_pictures_that_wait_are_bounded_in_bytes(
    weights: Path, face_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_detector(monkeypatch, lambda image: [])
    monkeypatch.setattr(pipeline, "HELD_BYTES", 2 * 96 * 96 * 3)
    counts = watch_batches(monkeypatch)
    pictures = sorted(face_folder.glob("*.png"))[:5]
    assert run(*pictures, "--weights", weights, "--out", tmp_path, "--write", "json") == 3
    assert [count for count in counts if count] == [2, 2, 1]


def test_a_folder_says_what_it_left_out(
    weights: Path,
    face_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_detector(monkeypatch, lambda image: [])
    photos, picture = tmp_path / "photos", cv2.imread(str(face_folder / "face00.png"))
    (photos / "more").mkdir(parents=True)
    for name in ("a.HEIC", "b.heic", "c.ts", "d.wmv", "notes.txt", ".e.heic"):
        (photos / name).touch()
    arguments = ["--weights", weights, "--out", tmp_path / "out", "--write", "json"]
    assert run(photos, *arguments) == 2
    assert "expected pictures" in (said := capsys.readouterr().err)
    assert "found 2 .heic, 1 .ts, 1 .wmv, 1 subfolder" in said
    readable = ("ppm", "pnm", "dib", "ras", "jpe")
    for suffix in readable:
        assert cv2.imwrite(str(photos / f"x.{suffix}"), picture)
    cv2.imwrite(str(photos / "y.pgm"), picture[:, :, 0])
    (photos / "z.jfif").write_bytes((photos / "x.jpe").read_bytes())
    assert run(photos, *arguments) == 3
    left = "photos: left out 2 .heic, 1 .ts, 1 .wmv, 1 subfolder; a folder stands for the pictures"
    assert left in capsys.readouterr().err
    wanted = {*(f"x_{suffix}.json" for suffix in readable), "y.json", "z.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == wanted
