"""`ccdn predict` and `ccdn.Predictor`: pictures, folders, video, cameras."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import ccdn
from ccdn.cli import predict
from ccdn.data import (
    DataError,
    detect_faces,
    generic_layout,
    landmark_box,
    read_300w,
    read_folder,
    read_pts,
    square_box,
)
from ccdn.data.boxes import overlap
from ccdn.data.detection import CallableDetector, choice
from ccdn.inference import pipeline, sources
from ccdn.inference.output_names import result_names
from ccdn.inference.results import Face, Faces
from ccdn.inference.sources import Source
from ccdn.inference.writers import StillResults
from ccdn.runtime.processes import Processes


def use_detector(monkeypatch: pytest.MonkeyPatch, find: Callable[[np.ndarray], Any]) -> None:
    """Every detector finds the boxes that `find` returns."""
    monkeypatch.setattr(choice, "_named", lambda name: CallableDetector(find))


@pytest.fixture
def weights(mean_shape_weights: Path) -> Path:
    return mean_shape_weights


def run(*arguments: str | Path) -> int:
    return predict.main([str(argument) for argument in arguments])


def test_from_python(weights: Path, face_folder: Path) -> None:
    """A picture comes in, landmarks in pixels and boxes come out."""
    predictor = ccdn.Predictor(weights)
    image = cv2.imread(str(face_folder / "face00.png"))
    box = landmark_box(read_pts(face_folder / "face00.pts"))
    first, second = faces = predictor(image, [box, box + 5], color="bgr")
    assert (faces.landmarks.shape, faces.landmarks.dtype) == ((2, 68, 2), np.float32)
    np.testing.assert_array_equal(faces.boxes, [box, box + 5])
    # The mean shape answers for every face: it moves with the box.
    assert np.allclose(second.landmarks, first.landmarks + 5, atol=1e-3)
    (alone,) = predictor(image, box, color="bgr")
    np.testing.assert_array_equal(alone.landmarks, first.landmarks)
    empty = predictor(np.full((90, 90, 3), 128, np.uint8))
    assert (empty.landmarks.shape, empty.boxes.shape) == ((0, 68, 2), (0, 4))
    with pytest.raises(ValueError, match="batch_size: expected at least 1"):
        ccdn.Predictor(weights, batch_size=0)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, "found NoneType"),
        ("face.png", "found str"),
        (np.zeros((9, 9, 3)), r"found float64 \(9, 9, 3\)"),
        (np.zeros((9, 9), np.uint8), r"found uint8 \(9, 9\)"),
        (np.zeros((9, 9, 4), np.uint8), r"found uint8 \(9, 9, 4\)"),
        (np.zeros((0, 9, 3), np.uint8), r"at least one pixel, found uint8 \(0, 9, 3\)"),
    ],
)
def test_an_invalid_picture(image: Any, message: str, weights: Path) -> None:
    """Of the methods that take arrays only; a call takes more (test_pictures.py)."""
    predictor = ccdn.Predictor(weights)
    for method in (predictor.predict, predictor.detections):
        with pytest.raises(ValueError, match=rf"image must be uint8 \(H, W, 3\).*{message}"):
            method([image])


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (5, "4 numbers x0 y0 x1 y1 for each face, found 5"),
        ([1, 2, 3], "4 numbers x0 y0 x1 y1 for each face"),
        ([[1, 2, 3, 4, 5]], "4 numbers x0 y0 x1 y1 for each face"),
        ([["a", 1, 2, 3]], "4 numbers x0 y0 x1 y1 for each face"),
        ([[np.nan, 1, 2, 3]], "4 numbers x0 y0 x1 y1 for each face"),
        ([[5, 5, 1, 1]], "empty or inverted box"),
        ([[5, 5, 5, 9]], "empty or inverted box 5,5,5,9, expected x0 < x1"),
        ([[1, 1, 9, 9], [5, 5, 9, 5]], "empty or inverted box 5,5,9,5, expected x0 < x1"),
        ([[1e300, 1, 2e300, 5]], "expected one that overlaps the picture of 90 x 90"),
    ],
)
def test_invalid_boxes(boxes: Any, message: str, weights: Path) -> None:
    with pytest.raises(ValueError, match=message):
        ccdn.Predictor(weights)(np.zeros((90, 90, 3), np.uint8), boxes)


@pytest.mark.parametrize(("color", "blue"), [("rgb", 2), ("bgr", 0)])
def test_the_order_of_channels(color: str, blue: int, weights: Path) -> None:
    seen: list[np.ndarray] = []
    predictor = ccdn.Predictor(weights, detector=lambda image: seen.append(image) or [])
    image = np.zeros((4, 4, 3), np.uint8)
    image[:, :, blue] = 255
    assert len(predictor(image, color=color)) == 0
    assert predictor.detect(image, color=color) == []
    assert [picture[0, 0].tolist() for picture in seen] == [[0, 0, 255]] * 2


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


def test_batches_do_not_change_the_landmarks(
    weights: Path, face_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [cv2.imread(str(path)) for path in sorted(face_folder.glob("*.png"))[:5]]
    boxes = [[np.array([10.0 + i, 10, 70, 80])] * (i % 3) for i in range(5)]
    one = ccdn.Predictor(weights, batch_size=1).landmarks(images, boxes)
    many = ccdn.Predictor(weights, batch_size=4).landmarks(images, boxes)
    assert [len(faces.boxes) for faces in many] == [0, 1, 2, 0, 1]
    for a, b in zip(one, many, strict=True):
        assert np.allclose(a.landmarks, b.landmarks, atol=1e-3)


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


def write_video(path: Path, frames: Sequence[np.ndarray]) -> None:
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (width, height))
    assert writer.isOpened()
    for frame in frames:
        writer.write(frame)
    writer.release()


def test_a_video(
    weights: Path, tmp_path: Path, face_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = [cv2.imread(str(path)) for path in sorted(face_folder.glob("*.png"))[:7]]
    write_video(tmp_path / "film.avi", frames)
    boxes = iter([[np.array([10.0 + i, 10, 80, 90])] * (i >= 3) for i in range(7)])
    use_detector(monkeypatch, lambda image: next(boxes))
    out = tmp_path / "out"
    arguments = ["--weights", weights, "--out", out, "--detect-every", "1", "--no-smooth"]
    assert run(tmp_path / "film.avi", *arguments, "--write", "picture,json,csv") == 0
    found = json.loads((out / "film.json").read_text())
    assert [len(frame["faces"]) for frame in found["frames"]] == [0, 0, 0, 1, 1, 1, 1]
    assert (found["width"], found["height"], found["frames_per_second"]) == (96, 96, 10)
    (face,) = found["frames"][3]["faces"]
    x, y = np.transpose(face["landmarks"])
    assert face["box"] == [x.min(), y.min(), x.max(), y.max()]
    rows = list(csv.DictReader((out / "film.csv").open()))
    assert [(row["frame"], row["id"]) for row in rows] == [(str(i), "0") for i in range(3, 7)]
    assert {frame["faces"][0]["id"] for frame in found["frames"][3:]} == {0}
    film = cv2.VideoCapture(str(out / "film_landmarks.mp4"))
    drawn = []
    while (read := film.read())[0]:
        drawn.append(read[1])
    assert len(drawn) == 7
    changed = [np.abs(a.astype(int) - b).max() > 100 for a, b in zip(drawn, frames, strict=True)]
    assert changed == [False, False, False, True, True, True, True]


class FakeCamera:
    """What cv2.VideoCapture gives for a camera: frames without end, no rate."""

    def __init__(self, place: Any) -> None:
        self.place = place

    def isOpened(self) -> bool:  # noqa: N802  (OpenCV's name)
        return self.place == 3

    def get(self, _: int) -> float:
        return 0.0

    def read(self) -> tuple[bool, np.ndarray]:
        return True, np.full((60, 60, 3), 90, np.uint8)

    def release(self) -> None:
        pass


def test_a_camera(
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sources.cv2, "VideoCapture", FakeCamera)
    out = tmp_path / "out"
    arguments = ["--weights", weights, "--out", out, "--frames", "4", "--write", "json"]
    assert run("camera:3", *arguments) == 3  # it films a wall
    assert "camera:3: 0 faces in 4 frames" in capsys.readouterr().out
    found = json.loads((out / "camera_3.json").read_text())
    assert [frame["frame"] for frame in found["frames"]] == [0, 1, 2, 3]
    times = [frame["time"] for frame in found["frames"]]
    assert times == sorted(times)
    assert found["frames_per_second"] == pytest.approx(3 / times[3], rel=0.1)  # as they came
    assert run("camera:0", *arguments) == 1
    error = capsys.readouterr().err
    assert "camera:0: expected a camera that is plugged in and that no other program uses" in error
    assert run("camera:x", *arguments) == 2
    assert "camera:x: expected the number of a camera" in capsys.readouterr().err


def test_an_invalid_video_is_named(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "film.mp4").write_bytes(b"no film")
    arguments = ["--weights", weights, "--out", tmp_path / "out"]
    assert run(tmp_path / "film.mp4", tmp_path / "gone.avi", *arguments) == 1
    printed = capsys.readouterr()
    assert "film.mp4: expected a video that OpenCV can read" in printed.err
    assert "gone.avi: video not found" in printed.err
    assert "2 inputs: 0 written" in printed.out
    assert run(tmp_path / "film.mp4", *arguments, "--box", "1,1,5,5") == 2
    assert "go with one picture, found a video" in capsys.readouterr().err


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


def test_a_camera_that_does_not_exist(
    weights: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One line tells, and none of OpenCV's."""
    for number in (64, 99999999999999999999):
        assert run(f"camera:{number}", "--weights", weights, "--out", tmp_path / "out") == 1
        (line,) = capfd.readouterr().err.splitlines()
        start, end = line.split("; ")
        assert start == (
            f"ccdn predict: camera:{number}: expected a camera that is plugged in and that no other"
            " program uses, it cannot be opened"
        )
        assert re.fullmatch(r"this machine has (none|camera:\d+.*)", end)


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
    counts = []
    real = predict.Predictor.landmarks

    def landmarks(self: Any, images: Any, boxes: Any) -> Any:
        counts.append(len(images))
        return real(self, images, boxes)

    monkeypatch.setattr(predict.Predictor, "landmarks", landmarks)
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


@pytest.mark.parametrize("image", [None, np.zeros((9, 9, 3)), np.zeros((9, 9, 4), np.uint8)])
def test_parts_of_a_predictor_check_pictures_too(image: Any, weights: Path) -> None:
    predictor = ccdn.Predictor(weights)
    with pytest.raises(ValueError, match="image must be uint8"):
        predictor.detections([image])
    with pytest.raises(ValueError, match="image must be uint8"):
        predictor.landmarks([image], [[np.array([0.0, 0, 9, 9])]])
    with pytest.raises(ValueError, match="4 numbers x0 y0 x1 y1"):
        predictor.landmarks([np.zeros((9, 9, 3), np.uint8)], [[np.zeros(3)]])


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
