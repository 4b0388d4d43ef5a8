"""A drawn film of H.264, VP9 or AV1 that shows each frame at its true time, by PyAV (FFmpeg)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ccdn.inference.video_writer import (
    FRAME_RATE,
    Film,
    complete,
    fitted,
    opencv_path,
    partial_name,
    picture_size,
)

TICKS = 90_000  # a second: a multiple of all common frame rates
# In order of preference, with what makes each fast enough and good enough to look at. Without
# frames that refer to later ones (bf), a film is written in the order of its times.
ENCODERS: dict[str, tuple[str, dict[str, str]]] = {
    "libx264": ("H.264", {"preset": "veryfast", "crf": "20", "bf": "0"}),
    "libopenh264": ("H.264", {"rc_mode": "quality"}),
    "libvpx-vp9": ("VP9", {"deadline": "realtime", "cpu-used": "6", "crf": "30", "b": "0"}),
    "libsvtav1": ("AV1", {"preset": "10", "crf": "32"}),
}


def open_film(path: Path, rate: float | None, camera: bool = False) -> Film | EncodedFilm:
    """A film to add frames to: by PyAV if it is installed and has an encoder, else by OpenCV."""
    name = encoder()
    return Film(path, rate, camera) if name is None else EncodedFilm(path, rate, name, camera)


def encoder() -> str | None:
    """The first of ENCODERS that PyAV has; None if it has none, or is not installed."""
    try:
        import av
    except ImportError:
        return None
    return next((name for name in ENCODERS if name in av.codecs_available and _works(name)), None)


def _works(name: str) -> bool:
    import av

    try:
        return av.codec.Codec(name, "w").is_encoder
    except ValueError:
        return False


@contextmanager
def _scheduling_kept() -> Iterator[None]:
    """Run by root, SVT-AV1 gives the thread that opens it a real-time priority, which no other
    program comes up against and which new processes inherit.
    """
    if not hasattr(os, "sched_setscheduler"):  # only some systems have it
        yield
        return
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != policy:
            os.sched_setscheduler(0, policy, priority)


class EncodedFilm:
    """An .mp4 that shows frames at their times; named PATH.partial.mp4 until it is complete.

    The last frame lasts as long as the `rate` says that the source states, or, for a `camera`, as
    long as the frame before it. Playback can start before the whole file is loaded. The file's
    table is written at the end, so the film of a killed process cannot be played.
    """

    def __init__(self, path: Path, rate: float | None, encoder: str, camera: bool = False) -> None:
        self.path = path
        self.partial = partial_name(path)
        self.rate = rate or FRAME_RATE
        self.codec = f"{ENCODERS[encoder][0]} by PyAV"
        self.written = 0
        self._last_length = round(TICKS / self.rate)
        self._camera = camera
        self._encoder = encoder
        self._size = (0, 0)
        self._held: tuple[Any, int] | None = None  # the last frame, whose length the next one tells
        self._lengths: dict[int, int] = {}  # in ticks, by the start of a frame
        self._open_files = ExitStack()
        self._container: Any = None
        self._stream: Any = None

    def add(self, image: np.ndarray, time: float) -> None:
        """Show a picture, uint8 (H, W, 3) RGB, from `time`, in seconds after the first one.

        Frames that differ in size from the first one are fitted into it with black borders. Raises
        OSError, naming the film, if it cannot be written.
        """
        import av

        if self._container is None:
            self._open(image)
        start = round(time * TICKS)
        if self._held is not None:
            start = max(start, self._held[1] + 1)
            length = start - self._held[1]
            self._encode(self._held, length)
            if self._camera:
                self._last_length = length
        picture = np.ascontiguousarray(fitted(image, self._size))
        self._held = av.VideoFrame.from_ndarray(picture, format="rgb24"), start

    def _open(self, image: np.ndarray) -> None:
        import av

        self._size = picture_size(image)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        place = self._open_files.enter_context(opencv_path(self.partial))
        options = {"movflags": "+faststart"}
        with self._naming(), _scheduling_kept():
            self._container = av.open(place, "w", format="mp4", options=options)
            nominal = Fraction(self.rate).limit_denominator(1001)
            self._stream = self._container.add_stream(
                self._encoder, rate=nominal, options=ENCODERS[self._encoder][1]
            )
            self._stream.width, self._stream.height = self._size
            self._stream.pix_fmt = "yuv420p"
            self._stream.codec_context.time_base = Fraction(1, TICKS)
            self._stream.time_base = Fraction(1, TICKS)
            self._stream.codec_context.open()

    def _encode(self, held: tuple[Any, int], length: int) -> None:
        frame, start = held
        frame.pts, frame.time_base = start, Fraction(1, TICKS)
        self._lengths[start] = length
        self.written += 1
        with self._naming():
            self._write(self._stream.encode(frame))

    def _write(self, packets: Iterable[Any]) -> None:
        for packet in packets:
            packet.duration = self._lengths.pop(packet.pts, packet.duration)
            self._container.mux(packet)

    def finish(self, whole: bool = True) -> None:
        """End the film and check that it has all its frames. If not, removes it and raises OSError,
        naming it. A film that is not `whole` keeps its partial name.
        """
        if self._container is None:
            return
        with self._open_files:
            try:
                if self._held is not None:
                    self._encode(self._held, self._last_length)
                with self._naming():
                    self._write(self._stream.encode(None))
            finally:
                container, self._container = self._container, None
                with self._naming():
                    container.close()
        complete(self.path, self.partial, self.written, whole)

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """Turn FFmpeg's errors into OSError with the film's name."""
        import av

        try:
            yield
        except (av.FFmpegError, OSError) as error:
            reason = error.strerror or str(error)
            raise OSError(error.errno, reason, str(self.path)) from None
