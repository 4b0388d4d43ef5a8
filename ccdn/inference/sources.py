"""The inputs of prediction: pictures, folders of pictures, video files, cameras."""

from __future__ import annotations

import math
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ccdn.data import DataError
from ccdn.data.image_types import FILMS, MOST_PIXELS, is_film
from ccdn.data.images import IMAGE_SUFFIXES, cv2, readable
from ccdn.inference.video_writer import FRAME_RATE, nominal_rate, opencv_path
from ccdn.runtime.numbers import is_whole

# All of these are read from a folder; a picture given by name may have any suffix.
PICTURE_SUFFIXES = (
    *IMAGE_SUFFIXES,
    *(".jfif", ".jpe", ".dib", ".jp2", ".gif", ".avif"),
    *(".pbm", ".pgm", ".ppm", ".pnm", ".pam", ".pfm", ".hdr", ".pic", ".ras", ".sr"),
)
# Pictures that OpenCV does not decode: those in a folder are counted, not silently ignored.
OTHER_PICTURES = (
    *(".heic", ".heif", ".hif", ".jxl", ".jxr", ".tga", ".psd", ".xcf", ".svg", ".exr", ".ico"),
    *(".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw"),
)
VIDEO_SUFFIXES = (
    *(".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".asf", ".flv"),
    *(".3gp", ".3g2", ".ts", ".mts", ".m2ts", ".vob", ".ogv", ".f4v", ".mxf", ".divx", ".qt"),
)
_SIDES = (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
CAMERA = "camera:"
_GAP = 10.0  # seconds between two frames that are accepted, whatever length the file states


@dataclass(frozen=True)
class Source:
    """One input: a picture's file, or a stream (video file or camera, by its number)."""

    path: Path
    camera: int | None = None

    @property
    def is_stream(self) -> bool:
        """Whether it has frames."""
        return self.camera is not None or self.path.suffix.lower() in VIDEO_SUFFIXES

    def __str__(self) -> str:
        """What the user calls it; the path of a camera names its results."""
        return str(self.path) if self.camera is None else f"{CAMERA}{self.camera}"


def sources(inputs: Sequence[str], say: Callable[[str], None] = lambda line: None) -> list[Source]:
    """The sources of the command line's inputs; a folder stands for the pictures in it.

    say: called with a line for each folder with entries that are left out: films, subfolders,
    pictures that OpenCV does not decode. Raises DataError for a folder without pictures, a camera
    without a number, and an address.
    """
    found: list[Source] = []
    for name in inputs:
        if not name:
            raise DataError(f"found an empty name, expected a picture, a folder or {CAMERA}N")
        if name.startswith(CAMERA):
            number = name.removeprefix(CAMERA)
            if not is_whole(number):
                raise DataError(f"{name}: expected the number of a camera, e.g. {CAMERA}0")
            found.append(Source(Path(f"camera_{number}"), int(number)))
        elif re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", name):
            raise DataError(
                f"{name}: expected a file, a folder or {CAMERA}N, found an address; nothing is read"
                " from a network: save it as a file first, or give each frame of"
                " cv2.VideoCapture(address) to ccdn.Predictor, with color='bgr'"
            )
        elif os.path.isdir(name):
            found += [Source(path) for path in _pictures(Path(name), say)]
        else:
            found.append(Source(Path(name)))
    return list(dict.fromkeys(found))


def _pictures(folder: Path, say: Callable[[str], None]) -> list[Path]:
    paths = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    pictures = [p for p in paths if p.suffix.lower() in PICTURE_SUFFIXES and not p.is_dir()]
    left = Counter(
        "subfolder" if path.is_dir() else suffix
        for path in paths
        if (suffix := path.suffix.lower()) in (*VIDEO_SUFFIXES, *OTHER_PICTURES) or path.is_dir()
    )
    skipped = ", ".join(f"{count} {what}" for what, count in sorted(left.items()))
    if not pictures:
        kinds = ", ".join(PICTURE_SUFFIXES)
        raise DataError(
            f"{folder}: expected pictures ({kinds}) in the folder, found {skipped or 'none'}"
        )
    if skipped:
        say(f"{folder}: left out {skipped}; a folder stands for the pictures that OpenCV decodes")
    return pictures


class Frame(NamedTuple):
    """A frame, uint8 RGB (H, W, 3), and its time in seconds after the first one."""

    image: np.ndarray
    time: float


class Stream:
    """The frames of a video file or a camera, and its stated frame rate (`rate`; None if that is
    impossible).

    Raises DataError, naming the source, if it cannot be opened or holds no frame.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.is_camera = source.camera is not None
        if not self.is_camera and not os.path.isfile(source.path):
            raise DataError(f"{source.path}: video not found")
        if not self.is_camera:
            _check_film(source.path)
        what = "a video that OpenCV can read, it cannot be opened"
        if self.is_camera:
            what = "a camera that is plugged in and that no other program uses, it cannot be opened"
            what += f"; this machine has {', '.join(_cameras()) or 'none'}"
        try:
            self.capture = self._open()
        except cv2.error:  # an invalid camera number
            raise DataError(f"{source}: expected {what}") from None
        if not self.capture.isOpened():
            raise DataError(f"{source}: expected {what}")
        if not self.is_camera:
            width, height = (self.capture.get(side) for side in _SIDES)
            if width * height > MOST_PIXELS:
                raise DataError(
                    f"{source.path}: found a film of {width:.0f} x {height:.0f} pixels, expected"
                    f" {MOST_PIXELS} at most"
                )
        self.rate = nominal_rate(self.capture.get(cv2.CAP_PROP_FPS))
        count = self.capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.count = int(count) if not self.is_camera and 0 < count < 1e12 else None
        self.done = 0
        self.ended = False  # ended by itself: a camera was unplugged, or a file ended
        self._first = self._last = 0.0

    def _open(self) -> Any:
        if self.source.camera is not None:
            with _silent_opencv():  # every back end would complain of a camera that is not there
                return cv2.VideoCapture(self.source.camera)
        with opencv_path(self.source.path) as place:
            return cv2.VideoCapture(place)

    def frames(self, most: int | None = None) -> Iterator[Frame]:
        """The frames, at most `most` of them.

        A camera's frame has the time at which it arrived, by a monotonic clock. A file's frame has
        the time stated by the file; if that is missing, does not increase, or jumps beyond the
        file's stated length, it is the previous time plus one interval of the file's rate (25
        frames/s if it states none).
        """
        while most is None or self.done < most:
            try:
                read, image = self.capture.read()
            except cv2.error as error:
                raise DataError(
                    f"{self.source}: OpenCV cannot read frame {self.done}: {error.err}"
                ) from None
            if not read:
                self.ended = True
                break
            self._last = self._camera_time() if self.is_camera else self._file_time()
            self.done += 1
            yield Frame(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), self._last)
        if self.done == 0:
            raise DataError(f"{self.source}: found no frame that can be read")

    def shortfall(self) -> str | None:
        """The message for frames missing at the end: a camera that stopped, or a file that has
        fewer frames than stated (by more than a twentieth: many files only estimate).
        """
        if not self.ended:
            return None
        if self.is_camera:
            return f"the camera gave no more frames after {self.done}; was it unplugged?"
        if self.count is not None and self.done < 0.95 * self.count - 1:
            return f"{self.done} frames could be read, the file announces {self.count}"
        return None

    def _camera_time(self) -> float:
        now = time.monotonic()
        if self.done == 0:
            self._first = now
        return now - self._first

    def _file_time(self) -> float:
        stated = self.capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if self.done == 0:
            self._first = stated if math.isfinite(stated) else 0.0
            return 0.0
        guess = self._last + 1 / (self.rate or FRAME_RATE)
        length = 0.0 if self.count is None or self.rate is None else self.count / self.rate
        found = stated - self._first
        if self._last < found <= max(self._last + _GAP, 1.1 * length):
            return found
        if not abs(found - self._last) <= 1.0:  # the file's clock restarts here
            self._first = stated - guess if math.isfinite(stated) else self._first
        return guess

    def close(self) -> None:
        """Release the file or the camera."""
        self.capture.release()


def _check_film(path: Path) -> None:
    """Raise DataError if the first bytes are not a film's, as in a list of other files."""
    with readable(path, "a film"), path.open("rb") as file:
        start = file.read(256)
    if start and not is_film(start):  # OpenCV reports that an empty one cannot be opened
        raise DataError(
            f"{path}: expected a video that OpenCV can read ({FILMS}), found another kind"
        )


@contextmanager
def _silent_opencv() -> Iterator[None]:
    levels = cv2.utils.logging
    before = levels.setLogLevel(levels.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        levels.setLogLevel(before)


def _cameras() -> list[str]:
    """The cameras that Linux shows, as `sources` takes them."""
    numbers = (path.name.removeprefix("video") for path in Path("/dev").glob("video*"))
    return [f"{CAMERA}{number}" for number in sorted(filter(is_whole, numbers), key=int)]
