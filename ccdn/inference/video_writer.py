"""A drawn film by OpenCV: frames at their times, in an .mp4 of a constant rate."""

from __future__ import annotations

import errno
import math
import os
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ccdn.data.images import cv2

FRAME_RATE = 25.0  # if a file or a camera states no possible rate
SLOWEST, FASTEST = 0.01, 1000.0  # frames per second that are accepted
_CAMERA = 60.0  # the highest rate written for a camera that states none
_HELD_SECONDS, _HELD_FRAMES, _HELD_BYTES = 1.0, 16, 1 << 27
_LARGEST = 65535  # the most ticks into which MPEG-4 divides a second
# What OpenCV is asked to write, in order of preference: not every OpenCV has VP9, and browsers do
# not play MPEG-4 Part 2.
CODES = {"vp09": "VP9", "mp4v": "MPEG-4 Part 2 (not for browsers)"}
_LONGEST_SIDE = 8190  # pixels of a film's side, by MPEG-4
_LOOK = 32  # frames between two checks of the disk


def nominal_rate(rate: float) -> float | None:
    """The rate that a file or a camera states, or None if it is impossible: not a number, below
    SLOWEST or above FASTEST.
    """
    return float(rate) if SLOWEST <= rate <= FASTEST else None


def film_rate(rate: float) -> float:
    """The rate nearest to `rate`, SLOWEST to FASTEST, at which OpenCV writes MPEG-4.

    It writes n/1, n/10, n/100 or n/1000 frames a second with n up to 65535: to 0.002 frames a
    second below 65.5, to 0.005 below 655, to 0.05 above. Below one frame a second a whole multiple
    is taken, of which each frame fills several.
    """
    if not SLOWEST <= rate <= FASTEST:
        raise ValueError(f"found {rate} frames/s, expected {SLOWEST} to {FASTEST}")
    wanted = rate * max(1, math.ceil(1 / rate))
    while (found := _nearest(wanted)) != wanted:  # the request is exactly what is written
        wanted = found
    return wanted


def _nearest(rate: float) -> float:
    """What OpenCV's writer makes of a rate: the first decimal place within 0.001 of it."""
    found = rate
    for base in (1, 10, 100, 1000):
        count = int(rate * base + 0.5)
        if count > _LARGEST:
            break
        found = count / base
        if abs(found - rate) <= 0.001:
            break
    return found


def camera_rate(times: list[float], nominal: float | None) -> float:
    """The rate of a camera's film, from the seconds at which its first frames came.

    The median interval, without the first one, in which the network starts up. If the result is
    within 15 % of the camera's stated rate, it is that rate; it never exceeds it.
    """
    most = _CAMERA if nominal is None else nominal
    gaps = [b - a for a, b in pairwise(times)]
    if not gaps:
        return film_rate(nominal or FRAME_RATE)
    gap = statistics.median(gaps[1:] or gaps)
    return film_rate(most if gap * most <= 1 / 0.85 else max(min(most, 1.0), 1 / gap))


@contextmanager
def opencv_path(path: Path) -> Iterator[str]:
    """A file's path in the form that OpenCV's videos accept.

    Absolute, because FFmpeg would read `10:30.mp4` as an address. And valid text: OpenCV crashes on
    other names, so such a file gets a link in a temporary folder for the block.
    """
    place = os.path.abspath(path)
    if is_text(place):
        yield place
        return
    with tempfile.TemporaryDirectory() as folder:
        suffix = path.suffix if is_text(path.suffix) else ""
        link = os.path.join(folder, f"film{suffix}")
        os.symlink(place, link)
        yield link


def is_text(name: str) -> bool:
    """Whether a file's name, which is bytes, is valid text."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


class Film:
    """An .mp4 that shows frames at their times; named PATH.partial.mp4 until it is complete.

    If a frame is late by more than one place of the film's rate, the previous one fills the places
    between; if it is that early, it is left out. Recorders do the same, and the film lasts as long
    as what it shows, to within a frame. `rate` is what the source states, None if that is
    impossible. A `camera`'s stated rate is not trusted: the first frames are held until they span a
    second (at most 16 frames or 128 MB), and `camera_rate` measures it.

    MPEG-4's table is last in the file, so the film of a killed process cannot be played.
    """

    def __init__(self, path: Path, rate: float | None, camera: bool = False) -> None:
        self.path = path
        self.partial = partial_name(path)
        self.nominal = rate
        self.rate = None if camera else film_rate(rate or FRAME_RATE)
        self.written = 0  # places of the film
        self.codec = ""  # and what wrote it, in words
        self._size = (0, 0)
        self._held: list[tuple[np.ndarray, float]] = []
        self._last: np.ndarray | None = None
        self._writer: Any = None

    def add(self, image: np.ndarray, time: float) -> None:
        """Show a picture, uint8 (H, W, 3) RGB, from `time`, in seconds after the first one.

        Frames that differ in size from the first one are fitted into it with black borders. Raises
        OSError, naming the film, if it cannot be written.
        """
        frame = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        if self.rate is not None:
            self._place(frame, time)
            return
        self._held.append((frame, time))
        count = len(self._held)
        known = count >= 3 and time >= _HELD_SECONDS
        if known or count >= _HELD_FRAMES or (count >= 3 and count * frame.nbytes >= _HELD_BYTES):
            self._measure()

    def _measure(self) -> None:
        """Determine the rate from the held frames, and write them."""
        self.rate = camera_rate([time for _, time in self._held], self.nominal)
        held, self._held = self._held, []
        for frame, time in held:
            self._place(frame, time)

    def _place(self, frame: np.ndarray, time: float) -> None:
        assert self.rate is not None
        if self._writer is None:
            self._open(frame, self.rate)
        frame = fitted(frame, self._size)
        late = time * self.rate - self.written
        if late > 1 and self._last is not None:
            for _ in range(round(late)):
                self._write(self._last)
        self._last = frame
        if late >= -1:
            self._write(frame)

    def _write(self, frame: np.ndarray) -> None:
        self._writer.write(frame)
        self.written += 1
        # OpenCV does not report a full disk.
        if self.written % _LOOK == 0 and not shutil.disk_usage(self.path.parent).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def _open(self, frame: np.ndarray, rate: float) -> None:
        self._size = picture_size(frame)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with opencv_path(self.partial) as place:
            for code, name in CODES.items():
                fourcc = cv2.VideoWriter.fourcc(*code)
                self._writer = cv2.VideoWriter(place, fourcc, rate, self._size)
                self.codec = f"{name} by OpenCV"
                if self._writer.isOpened():
                    return
        self._writer = None
        self.partial.unlink(missing_ok=True)
        with self.partial.open("wb"):  # explains it if the disk is the cause
            pass
        self.partial.unlink()
        raise OSError(f"{self.path}: OpenCV cannot write an .mp4 video here")

    def finish(self, whole: bool = True) -> None:
        """End the film and check that it has all its frames. If not, removes it and raises OSError,
        naming it. A film that is not `whole` keeps its partial name.
        """
        try:
            if self._held:
                self._measure()
            if whole and self._last is not None and self.nominal is not None and self.nominal < 1:
                for _ in range(math.ceil(1 / self.nominal) - 1):  # the last frame lasts as long
                    self._write(self._last)
        finally:
            self._release()
        if not self.written:
            return
        complete(self.path, self.partial, self.written, whole)

    def _release(self) -> None:
        if self._writer is not None:
            self._writer.release()
            self._writer = None


def partial_name(path: Path) -> Path:
    """Where a film is until it is complete."""
    return path.with_name(f"{path.stem}.partial{path.suffix}")


def complete(path: Path, partial: Path, written: int, whole: bool) -> None:
    """Check that a film has the frames that were written, and give it its name if it is `whole`. A
    film that lacks frames is removed: OSError, naming it.
    """
    found = _count(partial)
    if found != written:
        partial.unlink(missing_ok=True)
        raise OSError(
            f"{path}: only {found} of {written} frames could be written; is the disk full?"
        )
    if whole:
        os.replace(partial, path)


def picture_size(frame: np.ndarray) -> tuple[int, int]:
    """Width and height of a film's picture: even, and as MPEG-4 has them."""
    height, width = frame.shape[:2]
    scale = min(1.0, _LONGEST_SIDE / max(width, height))
    return max(2, round(width * scale) // 2 * 2), max(2, round(height * scale) // 2 * 2)


def _count(path: Path) -> int:
    with opencv_path(path) if path.is_file() else nullcontext("") as place:
        reader = cv2.VideoCapture(place) if place else None
    if reader is None:
        return 0
    found = int(reader.get(cv2.CAP_PROP_FRAME_COUNT)) if reader.isOpened() else 0
    reader.release()
    return found


def fitted(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A frame in the middle of a film's picture, as large as possible."""
    height, width = frame.shape[:2]
    if (width, height) == size:
        return frame
    scale = min(size[0] / width, size[1] / height)
    inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    left, top = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    canvas = np.zeros((size[1], size[0], 3), np.uint8)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    part = cv2.resize(frame, inner, interpolation=how)
    canvas[top : top + inner[1], left : left + inner[0]] = part
    return canvas
