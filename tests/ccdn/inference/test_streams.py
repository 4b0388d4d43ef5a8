"""Films and cameras: whole files, memory, and what remains after an error."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from locked import held_by_another
from predicting import Scripted, film_of, run, use_detector, watch_batches

from ccdn.data import DataError, generic_layout
from ccdn.inference import sources, video_writer
from ccdn.inference.results import Face, Faces
from ccdn.inference.sources import Source
from ccdn.inference.writers import StreamResults


@pytest.fixture(autouse=True)
def one_face(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cascade does not find made-up faces."""
    found = [np.array([10.0, 10, 50, 50])]
    use_detector(monkeypatch, lambda image: found)


@pytest.mark.parametrize(
    ("signum", "code", "line"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_a_stop_request_leaves_whole_files(
    signum: signal.Signals,
    code: int,
    line: str,
    weights: Path,
    tmp_path: Path,
    scripted: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(self: Scripted) -> tuple[bool, np.ndarray | None]:
        if self.done == 6:
            signal.raise_signal(signum)
        return Scripted.read(self)

    (tmp_path / "film.mp4").touch()
    (tmp_path / "next.mp4").touch()
    times = tuple(i / 10 for i in range(100))
    scripted(rate=10.0, times=times, stamps=times, count=100.0, read=interrupt)
    out = tmp_path / "out"
    more = ["--weights", weights, "--out", out]
    assert run(tmp_path / "film.mp4", tmp_path / "next.mp4", *more) == code
    assert capsys.readouterr().err == f"ccdn predict: {line}\n"
    assert {path.name for path in out.iterdir()} == {"film.json", "film_landmarks.mp4"}
    found = json.loads((out / "film.json").read_text())
    assert [len(frame["faces"]) for frame in found["frames"]] == [1] * 7
    assert film_of(out / "film_landmarks.mp4") == (7, 10)


KILLED = """
import os, signal, sys
from collections import namedtuple
import cv2, numpy as np
from ccdn.cli import predict
from ccdn.data.detection import CallableDetector, choice

class Capture:
    done = 0
    def __init__(self, place): pass
    def isOpened(self): return True
    def get(self, what): return 30.0
    def release(self): pass
    def read(self):
        self.done += 1
        if self.done == 21:
            os.kill(os.getpid(), signal.SIGKILL)
        return True, np.full((60, 60, 3), 90, np.uint8)

cv2.VideoCapture = Capture
choice._named = lambda name: CallableDetector(lambda image: [np.array([10.0, 10, 50, 50])])
sys.exit(predict.main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_what_a_killed_process_did_can_be_read(
    weights: Path, tmp_path: Path, scripted: Callable[..., None]
) -> None:
    command = [sys.executable, "-c", KILLED, "camera:0", "--weights", str(weights)]
    command += ["--write", "json,csv", "--out", str(tmp_path / "out")]
    killed = subprocess.run(command, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    left = {path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")}
    assert left == {"camera_0.json.partial", "camera_0.csv.partial"}
    text = (tmp_path / "out/camera_0.json.partial").read_text()
    found = json.loads(text + "]}")
    assert [frame["frame"] for frame in found["frames"]] == list(range(20))
    assert [len(frame["faces"][0]["landmarks"]) for frame in found["frames"]] == [68] * 20
    assert (found["width"], found["height"]) == (60, 60)
    rows = list(csv.DictReader((tmp_path / "out/camera_0.csv.partial").open()))
    assert [row["frame"] for row in rows] == [str(i) for i in range(20)]
    # The remains do not block a later run.
    scripted(times=(0.0, 0.1))
    more = ["--frames", "2", "--write", "json,csv", "--weights", weights]
    assert run("camera:0", *more, "--out", tmp_path / "out") == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"camera_0.json", "camera_0.csv"}


def test_memory_does_not_grow_with_the_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ccdn.inference.results.draw_faces", lambda image, *more: image)
    results = StreamResults(tmp_path, "film", {"json", "csv"}, generic_layout(68), 30.0)
    picture, random = np.zeros((8, 8, 3), np.uint8), np.random.default_rng(0)

    def add(frames: int) -> None:
        for _ in range(frames):
            faces = [
                Face(random.random((68, 2), np.float32), random.random(4), generic_layout(68))
                for _ in range(3)
            ]
            results.add(picture, Faces(faces, generic_layout(68)))

    add(10)
    tracemalloc.start()
    try:
        add(10)
        before = tracemalloc.get_traced_memory()[0]
        add(200)
        tracemalloc.reset_peak()
        results.close(Path("film.mp4"))
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held - before < 50_000  # of 6 MB in Python's lists
    assert peak - before < 150_000
    assert len(json.loads((tmp_path / "film.json").read_text())["frames"]) == 220


def test_a_json_file_says_all_it_did(tmp_path: Path) -> None:
    """The keys, and no other rate than one that can be."""
    results = StreamResults(tmp_path, "film", {"json"}, generic_layout(68), math.nan)
    empty = Faces([], generic_layout(68))
    for size in (8, 8, 6):
        results.add(np.zeros((size, 8, 3), np.uint8), empty)
    results.close(Path("a/film.mp4"))
    found = json.loads((tmp_path / "film.json").read_text())
    assert found.pop("coordinates").startswith("pixels, 0-based")
    last = {"frame": 2, "time": 0.08, "width": 8, "height": 6, "faces": []}
    frames = [{"frame": i, "time": 0.04 * i, "faces": []} for i in (0, 1)]
    about = {"width": 8, "height": 8, "video": "a/film.mp4", "frames_per_second": 25.0}
    assert found == {**about, "frames": [*frames, last]}


def test_frames_of_another_size(
    weights: Path, tmp_path: Path, scripted: Callable[..., None]
) -> None:
    scripted(times=tuple(i / 30 for i in range(9)), sizes=((64, 60), (64, 60), (80, 70)))
    assert run("camera:0", "--frames", "9", "--weights", weights, "--out", tmp_path) == 0
    frames = json.loads((tmp_path / "camera_0.json").read_text())["frames"]
    assert [frame.get("width") for frame in frames] == [None, None, 80] * 3
    assert film_of(tmp_path / "camera_0_landmarks.mp4")[0] == 9


def test_a_camera_that_is_unplugged(
    weights: Path,
    tmp_path: Path,
    scripted: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    scripted(times=(0.0, 0.1, 0.2))
    assert run("camera:0", "--weights", weights, "--out", tmp_path) == 1
    said = capsys.readouterr().err
    assert said == (
        "ccdn predict: camera:0: the camera gave no more frames after 3; was it unplugged?\n"
    )
    assert len(json.loads((tmp_path / "camera_0.json").read_text())["frames"]) == 3
    assert film_of(tmp_path / "camera_0_landmarks.mp4")[0] == 3


@pytest.mark.parametrize(("count", "code"), [(40, 1), (11, 0), (3, 0), (-1e15, 0), (math.nan, 0)])
def test_a_file_that_announces_more_frames_than_it_has(
    count: float,
    code: int,
    weights: Path,
    tmp_path: Path,
    scripted: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "a.mp4").touch()
    times = tuple(i / 30 for i in range(10))
    scripted(times=times, stamps=times, count=count)
    assert run(tmp_path / "a.mp4", "--weights", weights, "--out", tmp_path / "o") == code
    assert ("10 frames could be read, the file announces 40" in capsys.readouterr().err) == code
    assert len(json.loads((tmp_path / "o/a.json").read_text())["frames"]) == 10


def test_a_frame_that_opencv_cannot_read(
    weights: Path,
    tmp_path: Path,
    scripted: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        cv2.cvtColor(np.zeros((0, 0, 3), np.uint8), cv2.COLOR_BGR2RGB)

    scripted(times=(0.0, 0.1), end=staticmethod(fail))
    assert run("camera:0", "--weights", weights, "--out", tmp_path) == 1
    assert "camera:0: OpenCV cannot read frame 2: " in capsys.readouterr().err
    assert len(json.loads((tmp_path / "camera_0.json").read_text())["frames"]) == 2


def test_a_film_without_frames(
    weights: Path,
    tmp_path: Path,
    scripted: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "a.mp4").touch()
    scripted()
    assert run(tmp_path / "a.mp4", "--weights", weights, "--out", tmp_path / "o") == 1
    assert "a.mp4: found no frame that can be read" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_a_video_that_another_process_writes(
    weights: Path,
    tmp_path: Path,
    scripted: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    scripted(times=(0.0, 0.1))
    with held_by_another(tmp_path / ".camera_0.lock"):
        arguments = ["--frames", "2", "--weights", weights, "--out", tmp_path]
        assert run("camera:0", *arguments) == 2
    assert "folder is in use by" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if path.suffix in (".json", ".mp4")] == []


def test_films_that_cannot_be_written(
    weights: Path,
    tmp_path: Path,
    scripted: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The next film is done, and what is whole of the first one is there."""
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).touch()
    times = tuple(i / 30 for i in range(5))
    scripted(times=times, stamps=times)
    out = tmp_path / "out"
    (out / "a_landmarks.mp4").mkdir(parents=True)
    films = [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    assert run(*films, "--weights", weights, "--out", out) == 1
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert "a_landmarks.mp4" in line
    assert "2 inputs: 1 written, 5 faces, 0 without a face, 0 not readable, 1 not writable" in (
        printed.out
    )
    assert film_of(out / "b_landmarks.mp4")[0] == 5
    assert len(json.loads((out / "a.json").read_text())["frames"]) == 5
    assert run(films[0], "--weights", weights, "--out", out) == 2


def test_a_video_whose_name_is_not_text(weights: Path, tmp_path: Path) -> None:
    """OpenCV ends the process when it is given such a name."""
    name = os.fsdecode(b"\xff film")
    written = video_writer.Film(tmp_path / "a.mp4", 25.0)
    written.add(np.full((64, 64, 3), 90, np.uint8), 0.0)
    written.finish()
    try:
        (tmp_path / "a.mp4").rename(tmp_path / f"{name}.mp4")
    except OSError:
        pytest.skip("this file system wants names in UTF-8")
    out = tmp_path / "out"
    assert run(tmp_path / f"{name}.mp4", "--weights", weights, "--out", out) == 0
    assert {path.name for path in out.iterdir()} == {f"{name}.json", f"{name}_landmarks.mp4"}


def test_no_frame_waits_for_others(
    weights: Path,
    tmp_path: Path,
    scripted: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each is read before the next one comes, so memory does not depend on their size or number."""
    counts = watch_batches(monkeypatch)
    (tmp_path / "a.mp4").touch()
    times = tuple(i / 30 for i in range(7))
    scripted(times=times, stamps=times)
    assert run(tmp_path / "a.mp4", "--weights", weights, "--out", tmp_path / "o") == 0
    assert len(counts) >= 7
    assert set(counts) == {1}


def test_what_a_film_does_not_have(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--write", "pts", "--weights", weights, "--out", tmp_path]
    assert run(tmp_path / "a.mp4", *arguments) == 2
    assert "--write pts: a video has no .pts files" in capsys.readouterr().err


def test_suffixes_of_films() -> None:
    for name in ("a.wmv", "a.3GP", "a.ts", "a.m2ts", "a.flv", "a.MOV"):
        assert Source(Path(name)).is_stream
    assert not Source(Path("a.jfif")).is_stream


@pytest.mark.parametrize(
    "address", ["https://a/b.jpg", "rtsp://a/b", "http://a/b.jpg", "file:///a.mp4"]
)
def test_addresses(address: str) -> None:
    with pytest.raises(DataError, match=f"{address}: expected a file.*nothing is read from a net"):
        sources.sources([address])
