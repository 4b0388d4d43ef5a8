"""Films of a constant rate that show frames at their times."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from ccdn.inference import video_writer
from ccdn.inference.video_writer import Film, camera_rate, film_rate, nominal_rate, opencv_path

RATES = (0.01, 0.37, 1, 12.5, 23.976, 24.0014, 29.873, 65.537, 99.999, 119.873, 239.127, 959.047)
NONE = (0.0, -25.0, math.nan, math.inf, -math.inf, 1e6, 1e-9)


def grey(value: int, width: int = 32, height: int = 32) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def read(path: Path) -> tuple[float, list[np.ndarray]]:
    """The rate of a film and its frames."""
    with opencv_path(path) as place:
        reader = cv2.VideoCapture(place)
    frames = []
    while (found := reader.read())[0]:
        frames.append(found[1])
    return reader.get(cv2.CAP_PROP_FPS), frames


@pytest.mark.parametrize("rate", RATES)
def test_any_rate_is_written(rate: float, tmp_path: Path) -> None:
    written = Film(tmp_path / "a.mp4", rate)
    for i in range(3):
        written.add(grey(80 * i), i / rate)
    written.finish()
    found, frames = read(tmp_path / "a.mp4")
    assert written.rate is not None
    assert found == pytest.approx(written.rate, rel=1e-6)
    assert len(frames) / found == pytest.approx(3 / rate, rel=0.01)


def test_how_far_a_written_rate_is_off() -> None:
    for rate in np.geomspace(video_writer.SLOWEST, video_writer.FASTEST, 5000).tolist():
        wanted = rate * max(1, math.ceil(1 / rate))
        most = 0.002 if wanted < 65.5 else 0.0051 if wanted < 655 else 0.051
        assert abs(film_rate(rate) - wanted) <= most, rate
        # OpenCV's writer and MPEG-4 take it as it is.
        assert video_writer._nearest(film_rate(rate)) == film_rate(rate)
    for rate in NONE:
        with pytest.raises(ValueError, match=r"expected 0\.01 to 1000"):
            film_rate(rate)


@pytest.mark.parametrize("rate", NONE)
def test_an_invalid_rate_becomes_25(rate: float, tmp_path: Path) -> None:
    assert nominal_rate(rate) is None
    written = Film(tmp_path / "a.mp4", nominal_rate(rate))
    written.add(grey(0), 0.0)
    written.finish()
    assert read(tmp_path / "a.mp4")[0] == 25


def test_each_frame_is_shown_at_its_time(tmp_path: Path) -> None:
    """Of a rate that varies fivefold: late frames are repeated, early ones left out."""
    times = np.cumsum([0.0, *[0.04] * 10, *[0.2] * 6, *[0.008] * 20, *[0.04] * 5])
    written = Film(tmp_path / "a.mp4", 25.0)
    for i, time in enumerate(times):
        number = np.concatenate([grey(32 * (i % 8)), grey(32 * (i // 8))])
        written.add(number, float(time))
    written.finish()
    rate, frames = read(tmp_path / "a.mp4")
    assert rate == 25
    assert abs(len(frames) / rate - (times[-1] + 1 / rate)) <= 1.5 / rate
    for place, frame in enumerate(frames):
        low, high = (round(float(half.mean()) / 32) for half in np.split(frame, 2))
        following = [*times, math.inf]
        shown = 8 * high + low
        assert -1.5 / rate <= place / rate - times[shown]
        assert place / rate - following[shown + 1] <= 1.5 / rate


def test_a_constant_rate_keeps_every_frame(tmp_path: Path) -> None:
    """Times as files state them, to a millisecond, and a rate that MPEG-4 cannot state exactly."""
    written = Film(tmp_path / "a.mp4", 239.127)
    for i in range(500):
        written.add(grey(0), round(i / 239.127, 3))
    written.finish()
    assert written.written == 500


@pytest.mark.parametrize(
    ("gaps", "nominal", "rate"),
    [
        ([0.2] * 6, 30.0, 5.0),
        ([2.0] * 3, 30.0, 1.0),
        ([0.035] * 20, 30.0, 30.0),
        ([1.5, 0.001, 0.001, 0.2, 0.2, 0.2, 0.2], 30.0, 5.0),  # the network started, a queue
        ([0.001] * 9, 30.0, 30.0),
        ([0.0] * 9, None, 60.0),
        ([0.1] * 9, None, 10.0),
        ([2.0] * 3, 0.5, 1.0),
        ([], 30.0, 30.0),
        ([], None, 25.0),
    ],
)
def test_the_rate_of_a_camera_is_measured(
    gaps: list[float], nominal: float | None, rate: float
) -> None:
    assert camera_rate([0.0, *np.cumsum(gaps).tolist()], nominal) == pytest.approx(rate)


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_a_camera_s_film_lasts_as_long(count: int, tmp_path: Path) -> None:
    written = Film(tmp_path / "a.mp4", 30.0, camera=True)
    for i in range(count):
        written.add(grey(0), i / 5)
    assert written.partial.exists() == (count > 5)  # the first frames wait for the rate
    written.finish()
    rate, frames = read(tmp_path / "a.mp4")
    assert abs(len(frames) / rate - count / 5) <= 0.2


def test_frames_that_wait_for_a_rate_are_few(tmp_path: Path) -> None:
    written = Film(tmp_path / "a.mp4", 1000.0, camera=True)
    for i in range(20):
        written.add(grey(0), i / 1000)
        assert len(written._held) < 16
    assert written.written > 4
    written.finish()


def test_frames_of_another_size(tmp_path: Path) -> None:
    written = Film(tmp_path / "a.mp4", 25.0)
    for i, (width, height) in enumerate([(64, 48), (128, 96), (48, 64), (1, 100), (64, 48)]):
        written.add(grey(200, width, height), i / 25)
    written.finish()
    _, frames = read(tmp_path / "a.mp4")
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 5
    assert frames[1].min() > 180  # twice as large: fills the picture
    assert (frames[2][:, 28:36].min() > 150, frames[2][:, :8].max() < 50) == (True, True)


@pytest.mark.parametrize(
    ("side", "size"), [((1, 1), (2, 2)), ((97, 95), (96, 94)), ((9000, 30), (8190, 26))]
)
def test_sizes_that_mpeg_4_does_not_have(
    side: tuple[int, int], size: tuple[int, int], tmp_path: Path
) -> None:
    written = Film(tmp_path / "a.mp4", 25.0)
    written.add(grey(200, *side), 0.0)
    written.finish()
    (frame,) = read(tmp_path / "a.mp4")[1]
    assert frame.shape[1::-1] == size


def test_a_disk_that_fills_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = Film(tmp_path / "a.mp4", 25.0)
    written.add(grey(0), 0.0)
    full = SimpleNamespace(disk_usage=lambda folder: shutil._ntuple_diskusage(1, 1, 0))
    monkeypatch.setattr(video_writer, "shutil", full)
    with pytest.raises(OSError, match=r"No space left on device: .*a\.mp4"):
        written.add(grey(0), 4.0)
    assert written.written < 40


def test_a_film_that_lacks_frames_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = Film(tmp_path / "a.mp4", 25.0)
    for i in range(5):
        written.add(grey(0), i / 25)
    monkeypatch.setattr(video_writer, "_count", lambda path: 3)
    with pytest.raises(OSError, match=r"a\.mp4: only 3 of 5 frames could be written"):
        written.finish()
    assert not list(tmp_path.iterdir())


def test_only_a_whole_film_has_its_name(tmp_path: Path) -> None:
    written = Film(tmp_path / "a.mp4", 25.0)
    written.add(grey(0), 0.0)
    assert [path.name for path in tmp_path.iterdir()] == ["a.partial.mp4"]
    written.finish(whole=False)
    assert [path.name for path in tmp_path.iterdir()] == ["a.partial.mp4"]
    nothing = Film(tmp_path / "b.mp4", 25.0)
    nothing.finish()
    assert not (tmp_path / "b.mp4").exists()


@pytest.mark.parametrize(
    "name", [b"10:30.mp4", b"%02d.mp4", b"a\nb.mp4", b"http:x.mp4", b"\xff.mp4"]
)
def test_any_name(name: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a name is not text, OpenCV ends the process; FFmpeg takes some names for addresses."""
    folder = tmp_path / os.fsdecode(b"folder \xfe" if b"\xff" in name else b"folder")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system wants names in UTF-8")
    monkeypatch.chdir(folder)
    path = Path(os.fsdecode(name))
    written = Film(path, 25.0)
    written.add(grey(0), 0.0)
    written.finish()
    assert os.listdir(os.fsencode(folder)) == [name]
    assert len(read(path)[1]) == 1
