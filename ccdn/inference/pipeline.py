"""Runs a network on pictures, films and cameras, and writes the results."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ccdn.data import DataError, read_image
from ccdn.data.detection import Detections
from ccdn.inference.output_names import other_pictures
from ccdn.inference.predictor import Predictor, check_box
from ccdn.inference.sources import Source, Stream
from ccdn.inference.tracking import DETECT_EVERY, Tracker
from ccdn.inference.window import Window
from ccdn.inference.writers import StillResults, StreamResults
from ccdn.runtime.errors import ConfigError
from ccdn.runtime.progress import bar, counted

if TYPE_CHECKING:
    from ccdn.runtime.processes import Processes
    from ccdn.runtime.signals import StopRequest

Boxes = Detections | list[np.ndarray]
HELD_BYTES = 1 << 28  # of pictures that wait for the network


@dataclass(frozen=True)
class OutputOptions:
    """What to do with the inputs.

    out: the folder of the results. write: some of `ccdn.inference.writers.FORMATS`. batch_size:
    faces in one forward pass. frames: the most frames of a video or camera to process. show:
    a video or camera in a window. smooth: whether landmarks of a stream are smoothed. detect_every:
    the detector searches one of so many frames.
    """

    out: Path
    write: set[str]
    batch_size: int
    frames: int | None = None
    show: bool = False
    smooth: bool = True
    detect_every: int = DETECT_EVERY


@dataclass
class Tally:
    """Counts of what happened to the inputs. faces: found in all of them."""

    faces: int = 0
    written: int = 0
    empty: int = 0
    unread: int = 0
    unwritten: int = 0

    def add_unread(self, error: Exception) -> None:
        self.unread += 1
        say(str(error))

    def add_unwritten(self, error: Exception) -> None:
        self.unwritten += 1
        say(str(error))

    @classmethod
    def of_all(cls, parts: Sequence[Tally]) -> Tally:
        return cls(
            sum(part.faces for part in parts),
            sum(part.written for part in parts),
            sum(part.empty for part in parts),
            sum(part.unread for part in parts),
            sum(part.unwritten for part in parts),
        )

    def code(self) -> int:
        """The exit code."""
        if self.unwritten and not self.written:
            return 2
        if self.unread or self.unwritten:
            return 1
        return 0 if self.faces else 3


def say(text: str) -> None:
    """Print one line, even if a file's name has line breaks."""
    print(f"ccdn predict: {one_line(text)}", file=sys.stderr)


def one_line(text: str) -> str:
    """Text with its line breaks and other control characters escaped."""
    breaks = ("Cc", "Zl", "Zp")
    return "".join(ascii(c)[1:-1] if unicodedata.category(c) in breaks else c for c in text)


def predict_stills(
    predictor: Predictor,
    found: Sequence[Source],
    boxes: list[np.ndarray] | None,
    options: OutputOptions,
    names: Sequence[str],
    tally: Tally,
    request: StopRequest,
    group: Processes,
) -> None:
    """Process pictures one after the other, and their faces in batches."""
    if all(source.is_stream for source in found):
        return
    out = options.out
    results = StillResults(
        out,
        options.write,
        predictor.layout,
        "detector" if boxes is None else "given",
        group,
        other_pictures(out, found) if "pts" in options.write else frozenset(),
        predictor.has_spread,
    )
    mine = list(enumerate(found))[group.rank :: group.size]
    files = [(place, source.path) for place, source in mine if not source.is_stream]
    waiting = _Waiting(predictor, results, names, tally, len(found) == 1)
    for place, path, image in _images(bar(files, "pictures") if group.first else files, tally):
        if boxes is not None:
            _check_given(path, boxes[0], image)
        waiting.add(path, place, image, boxes)
        if waiting.full(options.batch_size) or request.signum:
            waiting.flush()
        if request.signum:
            break
    waiting.flush()
    try:
        results.close(interrupted=bool(request.signum))
    except OSError as error:
        tally.add_unwritten(error)


def _images(
    files: Iterable[tuple[int, Path]], tally: Tally
) -> Iterator[tuple[int, Path, np.ndarray]]:
    """Each picture that can be read; the others are reported."""
    for place, path in files:
        try:
            image = read_image(path)
        except DataError as error:
            tally.add_unread(error)
            continue
        yield place, path, image


class _Waiting:
    """Pictures, with their boxes, that wait for the network; bounded in faces and in bytes."""

    def __init__(
        self,
        predictor: Predictor,
        results: StillResults,
        names: Sequence[str],
        tally: Tally,
        single: bool,
    ) -> None:
        self.predictor, self.results, self.names = predictor, results, names
        self.tally, self.single = tally, single
        self.pictures: list[tuple[Path, int, np.ndarray, Boxes]] = []

    def add(
        self, path: Path, place: int, image: np.ndarray, boxes: list[np.ndarray] | None
    ) -> None:
        found: Boxes = self.predictor.detections([image])[0] if boxes is None else boxes
        self.pictures.append((path, place, image, found))

    def full(self, batch_size: int) -> bool:
        faces = sum(len(boxes) for _, _, _, boxes in self.pictures)
        return max(faces, len(self.pictures)) >= batch_size or _many_bytes(
            image for _, _, image, _ in self.pictures
        )

    def flush(self) -> None:
        """Write what the network finds in them. A picture is released once it is written."""
        found = self.predictor.landmarks(
            [image for _, _, image, _ in self.pictures], [boxes for *_, boxes in self.pictures]
        )
        self.pictures.reverse()
        for faces in found:
            path, place, image, _ = self.pictures.pop()
            faces = faces.at_least(self.predictor.min_score)
            count = len(faces)
            if not count:
                self.tally.empty += 1
                say(
                    f"{path}: no face detected; pass --box x0,y0,x1,y1, or a lower --min-score",
                )
            elif self.single:
                print(one_line(f"{path}: {counted(count, 'face')}"))
            self.tally.faces += count
            try:
                self.results.add(path, place, self.names[place], image, faces)
                self.tally.written += 1
            except OSError as error:
                self.tally.add_unwritten(error)


def _many_bytes(images: Iterable[np.ndarray]) -> bool:
    return sum(image.nbytes for image in images) >= HELD_BYTES


def _check_given(path: Path, box: np.ndarray, image: np.ndarray) -> None:
    try:
        check_box(path, box, image)
    except DataError as error:  # of the command line, not of the picture
        raise ConfigError(str(error)) from None


def predict_stream(
    predictor: Predictor,
    source: Source,
    options: OutputOptions,
    name: str,
    tally: Tally,
    request: StopRequest,
) -> None:
    """Process the frames of a video or camera. If it ends with an error, that is reported, and the
    results so far are still completed.
    """
    try:
        stream = Stream(source)
    except DataError as error:
        tally.add_unread(error)
        return
    results = StreamResults(
        options.out,
        name,
        options.write,
        predictor.layout,
        stream.rate,
        stream.is_camera,
        predictor.has_spread,
    )
    tracker = Tracker(predictor, options.detect_every, options.smooth)
    work = _Frames(tracker, stream, results, request)
    unread: Exception | None = None
    unwritten: OSError | None = None
    try:
        work.do(options.frames, Window(name) if options.show else None)
        if (fault := stream.shortfall()) is not None:
            unread = DataError(f"{source}: {fault}")
    except DataError as error:
        unread = error
    except OSError as error:
        unwritten = error
    finally:
        stream.close()
        try:
            results.close(source.path, whole=unwritten is None)
        except OSError as error:
            unwritten = unwritten or error
    if unread is not None:
        tally.add_unread(unread)
    if unwritten is not None:
        tally.add_unwritten(unwritten)
    elif results.count:
        tally.written += 1
        tally.faces += work.faces
        tally.empty += work.faces == 0
        ids = counted(tracker.count, "id")
        drawn = f"; drawn in {results.film.codec}" if results.film is not None else ""
        line = f"{source}: {work.faces} faces in {results.count} frames, {ids}{drawn}"
        print(one_line(line))


class _Frames:
    """The frames of a stream on their way through the network. faces: found in them."""

    def __init__(
        self, tracker: Tracker, stream: Stream, results: StreamResults, request: StopRequest
    ) -> None:
        self.tracker, self.stream, self.results, self.request = tracker, stream, results, request
        self.faces = 0

    def do(self, most: int | None, window: Window | None) -> None:
        """Process all frames, at most `most`, until the user asks to stop."""
        counts = [count for count in (self.stream.count, most) if count is not None]
        total, name = min(counts, default=None), one_line(self.results.name)
        try:
            for frame in bar(self.stream.frames(most), name, total, unit="frame"):
                faces = self.tracker(frame.image, frame.time)
                drawn = self.results.add(frame.image, faces, frame.time)
                self.faces += len(faces)
                wanted = window is None or window.show(drawn)
                if not wanted or self.request.signum:
                    return
        finally:
            if window is not None:
                window.close()
