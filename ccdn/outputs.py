"""Where predictions go: drawn pictures and videos, JSON, CSV, .pts files."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ccdn.data import Layout, write_pts
from ccdn.data.images import cv2
from ccdn.drawing import draw_box, draw_landmarks, write_picture
from ccdn.files import atomic_write, write_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ccdn.predictor import Faces
    from ccdn.training.processes import Processes

FORMATS = ("picture", "json", "csv", "pts")
COORDINATES = "pixels, 0-based, x right, y down; .pts files are 1-based"


def draw(image: np.ndarray, faces: Faces, layout: Layout) -> np.ndarray:
    """A copy of a picture, uint8 RGB, with the boxes and landmarks of its faces."""
    drawn = image
    for landmarks, box in zip(*faces, strict=True):
        drawn = draw_landmarks(draw_box(drawn, box), landmarks, layout)
    return drawn


class StillResults:
    """Results of single pictures: NAME_landmarks.png, NAME.json, .pts files of its faces (NAME.pts,
    or NAME_1.pts, NAME_2.pts, ... of several), and one landmarks.csv for all.
    """

    def __init__(self, out: Path, formats: set[str], layout: Layout, box_source: str) -> None:
        self.out, self.formats, self.layout, self.box_source = out, formats, layout, box_source
        self.table = Table(layout.points, "image") if "csv" in formats else None

    def add(self, path: Path, name: str, image: np.ndarray, faces: Faces) -> None:
        """Write what belongs to one picture."""
        if "picture" in self.formats:
            drawn = draw(image, faces, self.layout)
            write_picture(self.out / f"{name}_landmarks.png", drawn)
        records = face_records(faces)
        if "pts" in self.formats:
            for i, record in enumerate(records):
                record["pts"] = f"{name}.pts" if len(records) == 1 else f"{name}_{i + 1}.pts"
                write_pts(self.out / record["pts"], faces.landmarks[i])
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
            self.table.add(str(path), faces)

    def close(self, group: Processes, order: Sequence[Path]) -> None:
        """Write what holds all pictures: the first process, for all, in this order."""
        if self.table is not None:
            place = {str(path): i for i, path in enumerate(order)}
            rows = [row for rows in group.gather(self.table.rows) for row in rows]
            self.table.rows = sorted(rows, key=lambda row: place[row[0]])
            if group.first:
                self.table.write(self.out / "landmarks.csv")


class StreamResults:
    """Results of a video: NAME_landmarks.mp4, NAME.json and NAME.csv with the faces of each frame,
    counted from 0.
    """

    def __init__(
        self, out: Path, name: str, formats: set[str], layout: Layout, rate: float
    ) -> None:
        self.out, self.name, self.formats, self.layout = out, name, formats, layout
        self.rate = rate
        self.frames: list[dict[str, Any]] = []
        self.size: tuple[int, int] | None = None
        self.table = Table(layout.points, "frame") if "csv" in formats else None
        self.writer: Any = None
        self.written = 0

    def add(self, image: np.ndarray, faces: Faces) -> np.ndarray:
        """Take the next frame; returns it drawn. Raises OSError when no video can be written."""
        drawn = draw(image, faces, self.layout)
        height, width = image.shape[:2]
        self.size = (width, height)
        if "picture" in self.formats:
            if self.writer is None:
                self.out.mkdir(parents=True, exist_ok=True)
                path = self._video()
                code = cv2.VideoWriter.fourcc(*"mp4v")
                self.writer = cv2.VideoWriter(str(path), code, self.rate, (width, height))
                if not self.writer.isOpened():
                    raise OSError(f"{path}: OpenCV cannot write an .mp4 video here")
            self.writer.write(cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
            self.written += 1
        if "json" in self.formats:
            self.frames.append({"frame": len(self.frames), "faces": face_records(faces)})
        if self.table is not None:
            self.table.add(str(self.table.groups), faces)
        return drawn

    def _end_video(self) -> None:
        """Finish the video and look whether it is whole: OpenCV does not tell of a full disk."""
        if self.writer is None:
            return
        self.writer.release()
        self.writer = None
        path = self._video()
        reader = cv2.VideoCapture(str(path))
        found = int(reader.get(cv2.CAP_PROP_FRAME_COUNT)) if reader.isOpened() else 0
        reader.release()
        if found != self.written:
            path.unlink(missing_ok=True)
            raise OSError(
                f"{path}: only {found} of {self.written} frames could be written; is the disk full?"
            )

    def _video(self) -> Path:
        return self.out / f"{self.name}_landmarks.mp4"

    def close(self, source: Path) -> None:
        """Finish the video and write the files that hold all frames. Raises OSError where that
        cannot be.
        """
        self._end_video()
        if "json" in self.formats and self.size is not None:
            write_json(
                self.out / f"{self.name}.json",
                {
                    "video": str(source),
                    "width": self.size[0],
                    "height": self.size[1],
                    "frames_per_second": self.rate,
                    "coordinates": COORDINATES,
                    "frames": self.frames,
                },
            )
        if self.table is not None:
            self.table.write(self.out / f"{self.name}.csv")


class Table:
    """Rows of landmarks: whose picture or frame, the face's number from 0, its box, x0, y0, ..."""

    def __init__(self, points: int, first: str) -> None:
        self.rows: list[list[Any]] = []
        self.groups = 0
        box = ["box_x0", "box_y0", "box_x1", "box_y1"]
        self.header = [first, "face", *box]
        self.header += [f"{axis}{i}" for i in range(points) for axis in "xy"]

    def add(self, where: str, faces: Faces) -> None:
        """The faces of one picture or frame."""
        self.groups += 1
        for i, (landmarks, box) in enumerate(zip(*faces, strict=True)):
            self.rows.append([where, i, *_rounded(box), *_rounded(landmarks.ravel())])

    def write(self, path: Path) -> None:
        """Write all rows, atomically."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([self.header, *self.rows])
        with atomic_write(path) as file:
            # Names of files are bytes; those that are no text come out as they are.
            file.write(text.getvalue().encode("utf-8", "surrogateescape"))


def face_records(faces: Faces) -> list[dict[str, Any]]:
    """Boxes and landmarks as plain values, rounded to a thousandth of a pixel."""
    return [
        {"box": _rounded(box), "landmarks": _rounded(landmarks)}
        for landmarks, box in zip(*faces, strict=True)
    ]


def _rounded(values: np.ndarray) -> list[Any]:
    found: list[Any] = np.round(np.asarray(values, np.float64), 3).tolist()
    return found
