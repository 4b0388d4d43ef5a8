"""Writes predictions: drawn pictures and films, JSON, CSV, .pts files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ccdn.data import Layout, write_pts
from ccdn.data.drawing import write_picture
from ccdn.inference.encoded_film import EncodedFilm, open_film
from ccdn.inference.video_writer import FRAME_RATE, Film, nominal_rate
from ccdn.runtime.files import GrowingFile, write_json
from ccdn.runtime.locks import Lock

if TYPE_CHECKING:
    from ccdn.inference.results import Face, Faces
    from ccdn.runtime.processes import Processes

FORMATS = ("picture", "json", "csv", "pts")
COORDINATES = "pixels, 0-based, x right, y down; .pts files are 1-based"


def drawn_suffix(path: Path) -> str:
    """How the name of a picture's drawing ends: a JPEG is drawn as one, so that a photograph does
    not become five times as large.
    """
    jpeg = path.suffix.lower() in (".jpg", ".jpeg", ".jpe", ".jfif")
    return f"_landmarks{'.jpg' if jpeg else '.png'}"


class StillResults:
    """Results of single pictures: NAME_landmarks.png (.jpg for a JPEG), NAME.json, .pts files of
    its faces (NAME.pts, or NAME_face1.pts, NAME_face2.pts, ... of several), and one landmarks.csv
    for all.

    other_pictures: names, without suffix, of pictures in `out` that are not inputs. A .pts file
    next to such a picture would be read as its landmarks. spread: the network has one for each
    point.
    """

    def __init__(
        self,
        out: Path,
        formats: set[str],
        layout: Layout,
        box_source: str,
        group: Processes,
        other_pictures: frozenset[str] = frozenset(),
        spread: bool = False,
    ) -> None:
        self.out, self.formats, self.layout, self.box_source = out, formats, layout, box_source
        self.group, self.other_pictures = group, other_pictures
        self.table: CsvRows | None = None
        self.rows: list[tuple[int, bytes]] = []  # the first process writes the table
        self._held = ExitStack()
        if "csv" in formats:
            lock = self._held.enter_context(Lock(out / ".landmarks.csv.lock"))
            self.table = CsvRows(out / "landmarks.csv", layout.points, "image", lock, spread=spread)

    def add(self, path: Path, place: int, name: str, image: np.ndarray, faces: Faces) -> None:
        """Write the results of one picture, which has this position among all. Raises OSError if
        that is impossible.
        """
        records = faces.to_dict()
        if "pts" in self.formats:
            for i, record in enumerate(records):
                stem = name if len(records) == 1 else f"{name}_face{i + 1}"
                if stem in self.other_pictures:
                    raise FileExistsError(
                        f"{self.out / stem}.pts would be read as the landmarks of another picture"
                        f" of that name in {self.out}; choose another --out"
                    )
                record["pts"] = f"{stem}.pts"
        if "picture" in self.formats:
            drawn = faces.draw(image)
            write_picture(self.out / f"{name}{drawn_suffix(path)}", drawn)
            del drawn
        if "pts" in self.formats:
            for record, face in zip(records, faces, strict=True):
                write_pts(self.out / record["pts"], face.landmarks)
        if "json" in self.formats:
            write_json(
                self.out / f"{name}.json",
                {
                    "image": str(path),
                    "width": image.shape[1],
                    "height": image.shape[0],
                    "coordinates": COORDINATES,
                    "box_source": self.box_source,
                    "faces": records,
                },
            )
        if self.table is not None:
            lines = self.table.lines(str(path), faces)
            if self.group.size > 1:
                self.rows.append((place, lines))
            else:
                self.table.add(lines)

    def close(self, interrupted: bool = False) -> None:
        """Finish the files about all pictures; with several processes the first writes them, unless
        they are `interrupted`. Raises OSError if that is impossible.
        """
        with self._held:
            if self.table is None:
                return
            if self.group.size > 1:
                shares = [] if interrupted else self.group.gather(self.rows)
                if interrupted or not self.group.first:
                    return
                for _, lines in sorted((row for rows in shares for row in rows), key=_place):
                    self.table.add(lines)
            self.table.finish()


def _place(row: tuple[int, bytes]) -> int:
    return row[0]


class StreamResults:
    """Results of a stream: NAME_landmarks.mp4, NAME.json and NAME.csv with the faces of each frame,
    counted from 0. Memory does not grow with the frames.

    JSON and CSV are written frame by frame as NAME.json.partial and NAME.csv.partial and get their
    names at the end, so the work of a killed process is kept. A partial JSON file has one line for
    each frame and lacks only the last line.

    rate: the stream's stated frames per second. camera: the rate is measured instead. spread: as
    for pictures.
    """

    def __init__(
        self,
        out: Path,
        name: str,
        formats: set[str],
        layout: Layout,
        rate: float | None,
        camera: bool = False,
        spread: bool = False,
    ) -> None:
        self.spread = spread
        self.out, self.name, self.formats, self.layout = out, name, formats, layout
        self.rate, self.camera = None if rate is None else nominal_rate(rate), camera
        self.size: tuple[int, int] | None = None
        self.count = 0
        self.last = 0.0
        self.film: Film | EncodedFilm | None = None
        self.json: GrowingFile | None = None
        self.table: CsvRows | None = None
        self._held = ExitStack()

    def _begin(self, width: int, height: int) -> None:
        lock = self._held.enter_context(Lock(self.out / f".{self.name}.lock"))
        lock.take()  # of another process that predicts on a stream with that name
        self.size = (width, height)
        if "picture" in self.formats:
            path = self.out / f"{self.name}_landmarks.mp4"
            self.film = open_film(path, self.rate, self.camera)
        if "json" in self.formats:
            self.json = GrowingFile(self.out / f"{self.name}.json")
            about = {"width": width, "height": height, "coordinates": COORDINATES}
            self.json.add(f'{json.dumps(about)[:-1]}, "frames": ['.encode())
        if "csv" in self.formats:
            path = self.out / f"{self.name}.csv"
            points = self.layout.points
            self.table = CsvRows(path, points, "frame", lock, ("id", "time"), self.spread)

    def add(self, image: np.ndarray, faces: Faces, time: float | None = None) -> np.ndarray:
        """Take the next frame, uint8 RGB (H, W, 3), at this time in seconds after the first one
        (None: by the rate). Returns the drawn frame. Raises OSError if it cannot be written.
        """
        if time is None:
            time = self.count / (self.rate or FRAME_RATE)
        height, width = image.shape[:2]
        if self.size is None:
            self._begin(width, height)
        drawn = faces.draw(image)
        if self.json is not None:
            frame: dict[str, Any] = {"frame": self.count, "time": round(time, 6)}
            if self.size != (width, height):
                frame |= {"width": width, "height": height}
            frame["faces"] = faces.to_dict()
            line = json.dumps(frame, allow_nan=False)
            self.json.add(f"{',' if self.count else ''}\n{line}".encode())
        if self.table is not None:
            last = [[face.id, round(time, 6)] for face in faces]
            self.table.add(self.table.lines(str(self.count), faces, last))
        self.count += 1
        self.last = time
        if self.film is not None:
            self.film.add(drawn, time)
        return drawn

    def close(self, source: Path, whole: bool = True) -> None:
        """Finish the files; unless they are `whole`, because one could not be written, they stay
        partial. After trying all, raises the OSError of the first that cannot be finished.
        """
        faults: list[OSError] = []
        with self._held:
            for end in (self._end_json, self._end_table, self._end_film):
                try:
                    end(source, whole)
                except OSError as error:
                    faults.append(error)
        if faults:
            raise faults[0]

    def _end_json(self, source: Path, whole: bool) -> None:
        if self.json is None:
            return
        if not whole:
            self.json.leave()
            return
        rate = self.rate or FRAME_RATE
        if self.camera and self.count > 1 and self.last > 0:
            rate = round((self.count - 1) / self.last, 6)
        end = json.dumps({"video": str(source), "frames_per_second": rate})
        try:
            self.json.add(f"\n], {end[1:]}\n".encode())
        except OSError:
            self.json.leave()
            raise
        self.json.finish()

    def _end_table(self, source: Path, whole: bool) -> None:
        if self.table is not None:
            self.table.finish(whole)

    def _end_film(self, source: Path, whole: bool) -> None:
        if self.film is not None:
            self.film.finish(whole)


class CsvRows:
    """A CSV file that grows: whose picture or frame, the face's number from 0, its box, x0, y0,
    ..., its score, with `spread` s0, s1, ... of its points, and what comes last.

    Its lock is held from the first row on. Raises OSError if the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        points: int,
        first: str,
        lock: Lock,
        last: Sequence[str] = (),
        spread: bool = False,
    ) -> None:
        self.path, self.lock = path, lock
        self.header = [first, "face", "box_x0", "box_y0", "box_x1", "box_y1"]
        self.header += [f"{axis}{i}" for i in range(points) for axis in "xy"]
        self.header += ["score", *(f"s{i}" for i in range(points if spread else 0))]
        self.header += last
        self._file: GrowingFile | None = None
        self._failed = False

    def lines(self, where: str, faces: Faces, last: Sequence[Sequence[Any]] = ()) -> bytes:
        """The rows of the faces of one picture or frame; last: what comes last, of each face."""
        return _csv_lines(
            [
                *(where, i, *_rounded(face.box), *_rounded(face.landmarks.ravel())),
                *(*_trust(face), *(last[i] if last else ())),
            ]
            for i, face in enumerate(faces)
        )

    def add(self, lines: bytes) -> None:
        """Write rows."""
        try:
            if self._file is None:
                self.lock.take()
                self._file = GrowingFile(self.path)
                self._file.add(_csv_lines([self.header]))
            self._file.add(lines)
        except OSError:
            self._failed = True
            raise

    def finish(self, whole: bool = True) -> None:
        """Give the file its name, unless a row is missing or it is not `whole`; a table without
        rows has only its header.
        """
        if whole and not self._failed:
            self.add(b"")
        if self._file is not None and whole and not self._failed:
            self._file.finish()
        elif self._file is not None:
            self._file.leave()


def _csv_lines(rows: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    # File names are bytes; names that are not valid text are written unchanged.
    return text.getvalue().encode("utf-8", "surrogateescape")


def _rounded(values: np.ndarray) -> list[Any]:
    found: list[Any] = np.round(np.asarray(values, np.float64), 3).tolist()
    return found


def _trust(face: Face) -> list[float]:
    """The score of a face, and the spreads of its points if it has them."""
    return [round(face.score, 4), *([] if face.spread is None else _rounded(face.spread))]
