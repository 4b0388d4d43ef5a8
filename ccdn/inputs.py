"""What is predicted on: pictures, folders of pictures, video files, cameras."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ccdn.data import DataError
from ccdn.data.images import IMAGE_SUFFIXES, cv2

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
CAMERA = "camera:"
FRAME_RATE = 25.0  # where a file or a camera does not say


@dataclass(frozen=True)
class Source:
    """One input: a picture's file, or a stream (video file or camera, by its number)."""

    path: Path
    camera: int | None = None

    @property
    def is_stream(self) -> bool:
        """Whether it has frames."""
        return self.camera is not None or self.path.suffix.lower() in VIDEO_SUFFIXES


def sources(inputs: Sequence[str]) -> list[Source]:
    """The sources of the command line's inputs; a folder stands for the pictures in it.

    Raises DataError for a folder without pictures and a camera without a number.
    """
    found: list[Source] = []
    for name in inputs:
        if name.startswith(CAMERA):
            number = name.removeprefix(CAMERA)
            if not number.isdecimal():
                raise DataError(f"{name}: expected the number of a camera, e.g. {CAMERA}0")
            found.append(Source(Path(f"camera_{number}"), int(number)))
        elif Path(name).is_dir():
            inside = [p for p in sorted(Path(name).iterdir()) if p.suffix.lower() in IMAGE_SUFFIXES]
            inside = [p for p in inside if not p.name.startswith(".")]
            if not inside:
                kinds = ", ".join(IMAGE_SUFFIXES)
                raise DataError(f"{name}: expected pictures ({kinds}) in the folder, found none")
            found += [Source(path) for path in inside]
        else:
            found.append(Source(Path(name)))
    return list(dict.fromkeys(found))


class Stream:
    """The frames of a video file or a camera, uint8 RGB (H, W, 3), and how many a second.

    Raises DataError, naming it, when it cannot be opened or holds no frame.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        if source.camera is None and not source.path.is_file():
            raise DataError(f"{source.path}: video not found")
        place: Any = str(source.path) if source.camera is None else source.camera
        what = "a video that OpenCV can read" if source.camera is None else "a camera"
        try:
            self.capture = cv2.VideoCapture(place)
        except cv2.error:  # a camera's number that is none
            raise DataError(f"{source.path}: expected {what}, it cannot be opened") from None
        if not self.capture.isOpened():
            raise DataError(f"{source.path}: expected {what}, it cannot be opened")
        rate = float(self.capture.get(cv2.CAP_PROP_FPS))
        self.rate = rate if 0 < rate < 1000 else FRAME_RATE
        count = int(self.capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.count = count if source.camera is None and count > 0 else None

    def frames(self, most: int | None = None) -> Iterator[np.ndarray]:
        """The frames, `most` of them at most."""
        done = 0
        while most is None or done < most:
            read, frame = self.capture.read()
            if not read:
                break
            done += 1
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        if done == 0:
            raise DataError(f"{self.source.path}: found no frame that can be read")

    def close(self) -> None:
        """Let the file or the camera go."""
        self.capture.release()
