"""The times of frames: of cameras that are slower than they claim, and of files."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from predicting import film_of, run, use_detector

from ccdn.inference import video_writer
from ccdn.inference.sources import Source, Stream


@pytest.fixture(autouse=True)
def one_face(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cascade does not find made-up faces."""
    found = [np.array([10.0, 10, 50, 50])]
    use_detector(monkeypatch, lambda image: found)


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
