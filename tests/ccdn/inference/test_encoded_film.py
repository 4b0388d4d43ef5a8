"""Films by PyAV: true times, what browsers need, and what is done without it."""

from __future__ import annotations

import os
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ccdn.inference import encoded_film, video_writer
from ccdn.inference.encoded_film import ENCODERS, EncodedFilm, encoder, open_film
from ccdn.inference.sources import Source, Stream
from ccdn.inference.video_writer import Film

av = pytest.importorskip("av", reason="PyAV, of the extra `video`, is not installed")

BEST = encoder()
TIMES = [0.0, 0.04, 0.08, 0.5, 0.508, 1.25, 1.26, 3.0]  # of a variable rate


def grey(value: int, width: int = 64, height: int = 48) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def write(path: Path, name: str, times: list[float], rate: float | None = 25.0) -> EncodedFilm:
    written = EncodedFilm(path, rate, name)
    for i, time in enumerate(times):
        written.add(grey(25 * i + 20), time)
    written.finish()
    return written


def available() -> list[str]:
    return [name for name in ENCODERS if name in av.codecs_available]


@pytest.mark.parametrize("name", available())
def test_each_frame_has_its_time(name: str, tmp_path: Path) -> None:
    """In the file, and as our own reader gives it back."""
    written = write(tmp_path / "a.mp4", name, TIMES)
    assert written.codec == f"{ENCODERS[name][0]} by PyAV"
    with av.open(str(tmp_path / "a.mp4")) as film:
        (stream,) = film.streams
        assert (stream.codec_context.pix_fmt, stream.width, stream.height) == ("yuv420p", 64, 48)
        frames = list(film.decode(stream))
        assert [float(f.time) for f in frames] == pytest.approx(TIMES, abs=1e-4)
        levels = [int(f.to_ndarray(format="rgb24").mean()) for f in frames]
        assert levels == pytest.approx([25 * i + 20 for i in range(8)], abs=6)
        end = Fraction(stream.duration) * stream.time_base
        assert float(end) == pytest.approx(3.0 + 1 / 25, abs=1e-3)  # the last frame's length
    stream = Stream(Source(tmp_path / "a.mp4"))
    assert [frame.time for frame in stream.frames()] == pytest.approx(TIMES, abs=2e-3)
    stream.close()


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="a system without it")
@pytest.mark.parametrize("name", available())
def test_an_encoder_leaves_the_priority_alone(name: str, tmp_path: Path) -> None:
    """Run by root, SVT-AV1 would raise that of this thread above all other programs."""
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    written = EncodedFilm(tmp_path / "a.mp4", 25.0, name)
    for i in range(3):
        written.add(grey(20), i / 25)
        assert (os.sched_getscheduler(0), os.sched_getparam(0)) == before
    written.finish()
    assert (os.sched_getscheduler(0), os.sched_getparam(0)) == before


def test_times_of_a_film_that_is_stored_out_of_order(tmp_path: Path) -> None:
    """Cameras and editors write frames that refer to later ones; OpenCV reads their true times."""
    if "libx264" not in av.codecs_available:
        pytest.skip("this FFmpeg has no libx264, which writes such films")
    with av.open(str(tmp_path / "a.mp4"), "w") as film:
        stream = film.add_stream("libx264", rate=25, options={"bf": "3", "b-adapt": "0"})
        stream.codec_context.time_base = Fraction(1, 1000)
        for i, time in enumerate(TIMES):
            frame = av.VideoFrame.from_ndarray(grey(25 * i + 20), format="rgb24")
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            film.mux(stream.encode(frame))
        packets = stream.encode(None)
        film.mux(packets)
    assert [packet.pts for packet in packets] != sorted(packet.pts for packet in packets)
    frames = list(Stream(Source(tmp_path / "a.mp4")).frames())
    assert [frame.time for frame in frames] == pytest.approx(TIMES, abs=2e-3)
    assert [int(f.image.mean()) for f in frames] == pytest.approx(
        [25 * i + 20 for i in range(8)], abs=6
    )


def test_a_browser_can_start_at_once(tmp_path: Path) -> None:
    """The table comes before the pictures."""
    assert BEST is not None
    write(tmp_path / "a.mp4", BEST, TIMES)
    data = (tmp_path / "a.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize("side", [(97, 95), (1, 1), (64, 51)])
def test_odd_sizes(side: tuple[int, int], tmp_path: Path) -> None:
    assert BEST is not None
    written = EncodedFilm(tmp_path / "a.mp4", 25.0, BEST)
    written.add(grey(200, *side), 0.0)
    written.add(grey(200, 128, 96), 0.04)
    written.finish()
    with av.open(str(tmp_path / "a.mp4")) as film:
        frame = next(film.decode(video=0))
        assert (frame.width, frame.height) == tuple(max(2, value // 2 * 2) for value in side)


@pytest.mark.parametrize("rate", [None, 0.01, 0.37, 23.976, 119.873, 1000.0])
def test_any_rate(rate: float | None, tmp_path: Path) -> None:
    assert BEST is not None
    times = [i / (rate or 25.0) for i in range(3)]
    write(tmp_path / "a.mp4", BEST, times, rate)
    with av.open(str(tmp_path / "a.mp4")) as film:
        found = [float(frame.time) for frame in film.decode(video=0)]
        assert found == pytest.approx(times, abs=1e-4)


def test_frames_at_one_time_are_kept_in_order(tmp_path: Path) -> None:
    assert BEST is not None
    assert write(tmp_path / "a.mp4", BEST, [0.0, 0.0, 0.0]).written == 3


@pytest.mark.parametrize("name", [b"10:30.mp4", b"%02d.mp4", b"http:x.mp4", b"\xff.mp4"])
def test_any_name(name: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert BEST is not None
    try:
        write(Path(os.fsdecode(name)), BEST, [0.0, 0.1])
    except OSError:
        if b"\xff" not in name:
            raise
        pytest.skip("this file system takes names in UTF-8 only")
    assert os.listdir(os.fsencode(tmp_path)) == [name]


def test_only_a_whole_film_has_its_name(tmp_path: Path) -> None:
    assert BEST is not None
    written = EncodedFilm(tmp_path / "a.mp4", 25.0, BEST)
    written.add(grey(0), 0.0)
    written.finish(whole=False)
    assert [path.name for path in tmp_path.iterdir()] == ["a.partial.mp4"]
    nothing = EncodedFilm(tmp_path / "b.mp4", 25.0, BEST)
    nothing.finish()
    assert not (tmp_path / "b.mp4").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_a_full_disk_is_named(tmp_path: Path) -> None:
    assert BEST is not None
    written = EncodedFilm(tmp_path / "a.mp4", 25.0, BEST)
    written.partial.symlink_to("/dev/full")
    noise = np.random.default_rng(0).integers(0, 255, (3, 480, 640, 3), np.uint8)

    def work() -> None:
        for i, image in enumerate(noise):
            written.add(image, i / 25)
        written.finish()

    with pytest.raises(OSError, match=r"a\.mp4"):
        work()
    assert not (tmp_path / "a.mp4").exists()


def test_a_film_that_lacks_frames_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert BEST is not None
    monkeypatch.setattr(video_writer, "_count", lambda path: 3)
    with pytest.raises(OSError, match=r"a\.mp4: only 3 of 8 frames could be written"):
        write(tmp_path / "a.mp4", BEST, TIMES)
    assert not list(tmp_path.iterdir())


def test_without_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(open_film(tmp_path / "a.mp4", 25.0), EncodedFilm)
    monkeypatch.setitem(sys.modules, "av", None)
    written: Any = open_film(tmp_path / "a.mp4", 25.0)
    assert isinstance(written, Film)
    for i in range(3):
        written.add(grey(90), i / 25)
    written.finish()
    assert written.codec in [f"{name} by OpenCV" for name in video_writer.CODES.values()]


def test_without_a_known_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded_film, "ENCODERS", {"no_such_encoder": ("none", {})})
    assert encoder() is None
    assert isinstance(open_film(tmp_path / "a.mp4", 25.0), Film)
