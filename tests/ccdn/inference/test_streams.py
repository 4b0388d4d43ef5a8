"""Films and cameras: times, rates, windows, memory, and what remains after an error."""

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
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from locked import held_by_another

from ccdn.cli import predict
from ccdn.config import ConfigError
from ccdn.data import DataError, generic_layout
from ccdn.data.detection import CallableDetector, choice
from ccdn.inference import sources, video_writer, window
from ccdn.inference.results import Face, Faces
from ccdn.inference.sources import Source, Stream
from ccdn.inference.writers import StreamResults


def use_detector(monkeypatch: pytest.MonkeyPatch, find: Callable[[np.ndarray], Any]) -> None:
    """Every detector finds the boxes that `find` returns."""
    monkeypatch.setattr(choice, "_named", lambda name: CallableDetector(find))


@pytest.fixture
def weights(mean_shape_weights: Path) -> Path:
    return mean_shape_weights


@pytest.fixture(autouse=True)
def one_face(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cascade does not find made-up faces."""
    found = [np.array([10.0, 10, 50, 50])]
    use_detector(monkeypatch, lambda image: found)


def run(*arguments: str | Path) -> int:
    return predict.main([str(argument) for argument in arguments])


class Scripted:
    """A cv2.VideoCapture of frames at given times, and then what `end` does."""

    rate = 30.0
    times: tuple[float, ...] = ()
    stamps: tuple[float, ...] = ()  # the times that a file states, in seconds
    count = 0.0
    sizes: tuple[tuple[int, int], ...] = ((64, 60),)
    end: Callable[[], Any] = staticmethod(lambda: None)
    now = 0.0

    def __init__(self, place: Any) -> None:
        self.done = 0

    def isOpened(self) -> bool:  # noqa: N802  (OpenCV's name)
        return True

    def get(self, what: int) -> float:
        if what == cv2.CAP_PROP_POS_MSEC:
            return 1000 * self.stamps[self.done - 1]
        sides = dict(
            zip((cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT), self.sizes[0], strict=True)
        )
        properties = {cv2.CAP_PROP_FPS: self.rate, cv2.CAP_PROP_FRAME_COUNT: self.count}
        return (properties | sides)[what]

    def read(self) -> tuple[bool, np.ndarray | None]:
        if self.done == len(self.times):
            self.end()
            return False, None
        Scripted.now = self.times[self.done]
        width, height = self.sizes[self.done % len(self.sizes)]
        self.done += 1
        return True, np.full((height, width, 3), 90, np.uint8)

    def release(self) -> None:
        pass


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what a capture gives; the clock shows the time of the last frame."""

    def script(**given: Any) -> None:
        monkeypatch.setattr(sources, "cv2", SimpleNamespace(**{**vars(cv2), "VideoCapture": kind}))
        for name, value in given.items():
            setattr(kind, name, value)

    kind = type("Capture", (Scripted,), {})
    clock = SimpleNamespace(monotonic=lambda: 7.5 + Scripted.now)
    monkeypatch.setattr(sources, "time", clock)
    return script


def film_of(path: Path) -> tuple[float, float]:
    """Frames and frames a second of a film."""
    reader = cv2.VideoCapture(str(path))
    assert reader.isOpened()
    return reader.get(cv2.CAP_PROP_FRAME_COUNT), reader.get(cv2.CAP_PROP_FPS)


@pytest.mark.parametrize("pyav", [True, False])
def test_a_camera_that_is_slower_than_it_claims(
    pyav: bool,
    weights: Path,
    tmp_path: Path,
    scripted: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It claims 30 frames a second and gives 5, later 2: film and JSON last as long."""
    if pyav:
        pytest.importorskip("av", reason="PyAV, of the extra `video`, is not installed")
    else:
        monkeypatch.setitem(sys.modules, "av", None)
    times = (*np.arange(15) / 5, *(3 + np.arange(10) / 2))
    scripted(rate=30.0, times=times)
    out = ["--weights", weights, "--out", tmp_path, "--write", "picture,json,csv"]
    assert run("camera:0", "--frames", "25", *out) == 0
    count, rate = film_of(tmp_path / "camera_0_landmarks.mp4")
    if pyav:  # shows each frame at its time
        assert (count, count / rate) == (25, pytest.approx(times[-1] + 0.5))
    else:
        assert rate == pytest.approx(5)
        assert abs(count / rate - (times[-1] + 1 / rate)) <= 1.5 / rate
    assert f"drawn in {'H.264 by PyAV' if pyav else 'VP9 by OpenCV'}" in capsys.readouterr().out
    found = json.loads((tmp_path / "camera_0.json").read_text())
    assert [frame["time"] for frame in found["frames"]] == pytest.approx(times)
    assert [frame["frame"] for frame in found["frames"]] == list(range(25))
    assert found["frames_per_second"] == pytest.approx(24 / 7.5)
    rows = list(csv.DictReader((tmp_path / "camera_0.csv").open()))
    assert [float(row["time"]) for row in rows] == pytest.approx(times)


def times_of(rate: float, stamps: list[float], count: float = 0.0) -> list[float]:
    stream = Stream(Source(Path("camera_0"), 0))
    stream.is_camera = False
    stream.capture.rate, stream.capture.stamps = rate, stamps
    stream.rate, stream.count = video_writer.nominal_rate(rate), int(count) or None
    stream.capture.times = stamps
    return [frame.time for frame in stream.frames()]


@pytest.mark.parametrize(
    ("rate", "stamps", "count", "times"),
    [
        (30, [0, 0.02, 0.5, 0.6, 2.0], 0, [0, 0.02, 0.5, 0.6, 2.0]),  # a variable rate
        (30, [5.0, 5.1, 5.3], 0, [0, 0.1, 0.3]),  # starts late
        (10, [0, 0, 0], 0, [0, 0.1, 0.2]),  # states none
        (10, [math.nan, math.nan, math.inf], 0, [0, 0.1, 0.2]),
        (math.nan, [0, 0, 0], 0, [0, 0.04, 0.08]),  # nor a rate
        (10, [0, 0.2, 0.2, 0.3, 0.5], 0, [0, 0.2, 0.3, 0.4, 0.5]),  # one that stands still
        (10, [0, 0.2, 95443.7, 95443.9], 0, [0, 0.2, 0.3, 0.5]),  # a jump: counts anew
        (10, [50, 50.1, 0, 0.1], 0, [0, 0.1, 0.2, 0.3]),
        (10, [0, 60.0, 120.0], 1200, [0, 60.0, 120.0]),  # long pauses, as the file is long
    ],
)
def test_times_of_a_file(
    rate: float,
    stamps: list[float],
    count: float,
    times: list[float],
    scripted: Callable[..., None],
) -> None:
    scripted()
    assert times_of(rate, stamps, count) == pytest.approx(times)


def test_times_of_a_real_file(tmp_path: Path) -> None:
    written = video_writer.Film(tmp_path / "a.mp4", 12.5)
    for i in range(9):
        written.add(np.full((32, 32, 3), 20 * i, np.uint8), i / 12.5)
    written.finish()
    stream = Stream(Source(tmp_path / "a.mp4"))
    assert (stream.rate, stream.count) == (12.5, 9)
    frames = list(stream.frames())
    stream.close()
    assert [frame.time for frame in frames] == pytest.approx([i / 12.5 for i in range(9)])
    assert stream.shortfall() is None


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
def test_a_file_that_tells_of_more_frames_than_it_has(
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
    assert ("10 frames could be read, the file tells of 40" in capsys.readouterr().err) == code
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
    counts = []
    real = predict.Predictor.landmarks

    def landmarks(self: Any, images: Any, boxes: Any) -> Any:
        counts.append(len(images))
        return real(self, images, boxes)

    monkeypatch.setattr(predict.Predictor, "landmarks", landmarks)
    (tmp_path / "a.mp4").touch()
    times = tuple(i / 30 for i in range(7))
    scripted(times=times, stamps=times)
    assert run(tmp_path / "a.mp4", "--weights", weights, "--out", tmp_path / "o") == 0
    assert len(counts) >= 7
    assert set(counts) == {1}


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A screen: what a window answers, and what was shown."""
    answers: dict[str, Any] = {"key": lambda: -1, "visible": lambda: 1.0, "shown": []}

    def seen(name: str, image: np.ndarray) -> None:
        answers["shown"].append(name)

    fake = SimpleNamespace(**vars(cv2))
    fake.imshow, fake.waitKey = seen, lambda wait: answers["key"]()
    fake.getWindowProperty = lambda name, which: answers["visible"]()
    fake.destroyAllWindows = lambda: None
    monkeypatch.setattr(window, "cv2", fake)
    monkeypatch.setattr(window, "check_window", lambda: None)
    return answers


def closed() -> float:
    raise cv2.error("no such window")


@pytest.mark.parametrize(
    ("answer", "second", "frames"),
    [
        ("key", lambda: ord("q"), 2),
        ("visible", lambda: 0.0, 2),
        ("visible", closed, 2),
        ("visible", lambda: 1.0, 5),
    ],
)
def test_a_window_that_is_closed(
    answer: str,
    second: Callable[[], float],
    frames: int,
    weights: Path,
    tmp_path: Path,
    scripted: Callable[..., None],
    screen: dict[str, Any],
) -> None:
    first = screen[answer]
    screen[answer] = lambda: (first if len(screen["shown"]) == 1 else second)()
    scripted(times=tuple(i / 30 for i in range(9)))
    arguments = ["--show", "--frames", "5", "--weights", weights, "--out", tmp_path]
    assert run("camera:0", *arguments) == 0
    assert screen["shown"] == ["camera_0"] * frames
    assert len(json.loads((tmp_path / "camera_0.json").read_text())["frames"]) == frames
    assert film_of(tmp_path / "camera_0_landmarks.mp4")[0] == frames


def test_a_window_that_never_tells_whether_it_is_seen(screen: dict[str, Any]) -> None:
    screen["visible"] = lambda: -1.0
    shown = window.Window("a \udcff")
    assert [shown.show(np.zeros((4, 4, 3), np.uint8)) for _ in range(3)] == [True] * 3
    assert screen["shown"][0] == "a \\udcff"


HEADLESS = """
class error(Exception): pass
def namedWindow(name): raise error("{text}")
"""
NO_WINDOWS = "The function is not implemented. Rebuild the library with Windows, GTK+ 2.x or Cocoa"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems name no display")
@pytest.mark.parametrize(
    ("module", "display", "reason"),
    [
        (HEADLESS.format(text=NO_WINDOWS), None, "this OpenCV has no windows"),
        (HEADLESS.format(text="Can't initialize GTK backend"), None, "no display"),
        ("import os; os.abort()", None, "no display"),
        ("import os; os.abort()", ":77", "the display DISPLAY=:77 cannot be reached"),
        ("import no_such_module", None, "ModuleNotFoundError: No module named 'no_such_module'"),
        ("import time; time.sleep(60)", ":77", "the display DISPLAY=:77 did not answer in 0.5 s"),
    ],
)
def test_no_window_can_be_shown(
    module: str,
    display: str | None,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of OpenCV without windows, without a display, and with one that cannot be reached."""
    (tmp_path / "cv2.py").write_text(module)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    if display is not None:
        monkeypatch.setenv("DISPLAY", display)
    if "sleep" in module:
        monkeypatch.setattr(window, "SECONDS", 0.5)
    with pytest.raises(ConfigError) as raised:
        window.check_window()
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_window_can_be_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = "namedWindow = waitKey = lambda *_: 0\ndestroyAllWindows = lambda: None\n"
    (tmp_path / "cv2.py").write_text(f"class error(Exception): pass\n{parts}")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    window.check_window()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems name no display")
def test_show_without_a_display(
    weights: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the OpenCV that is installed: one line before anything is written."""
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    out = tmp_path / "out"
    assert run("camera:0", "--show", "--weights", weights, "--out", out) == 2
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("ccdn predict: --show: no window can be shown here: ")
    assert not out.exists()
    (tmp_path / "a.png").touch()
    assert run(tmp_path / "a.png", "--show", "--weights", weights, "--out", out) == 2
    assert "--show goes with a video or camera, found pictures only" in capfd.readouterr().err


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
