"""The CSV files of HRNet's authors, which many already have on disk.

::

    image_name,scale,center_w,center_h,original_0_x,original_0_y,...
    image_name,scale,box_size,center_w,center_h,...                    AFLW

The box has the given centre and a side of 200 `scale`, or of `box_size`, by which the norm
face_size measures. Coordinates are taken as 0-based pixels, as the files' authors use them, of the
picture as stored, without its EXIF orientation. The images lie in `images/` next to the file.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from ccdn.data.benchmark import Benchmark
from ccdn.data.faces import Face, ImageFaces, checked_box, checked_landmarks
from ccdn.data.images import DataError, readable
from ccdn.data.readers.gather import gather, reading
from ccdn.data.readers.split_files import find_image, find_split_file
from ccdn.runtime.numbers import parse_number

_FIRST = ("image_name", "scale", "center_w", "center_h")
PIXELS_OF_SCALE = 200.0


def read_hrnet(
    root: str | Path,
    split: str = "train",
    skip_bad: bool = False,
    *,
    missing_points: str = "error",
    orientation: str = "auto",
) -> ImageFaces:
    """Open a CSV file, or that of a split in a folder (`face_landmarks_wflw_train.csv`).

    Raises DataError for a missing file or column, and the first bad row unless `skip_bad`, which
    logs and counts them in `skipped`; `missing_points` and `orientation` (auto: as stored) are
    those of `ccdn.data.open_faces`.
    """
    how = reading(skip_bad, missing_points, orientation)
    path = find_split_file(Path(root), split, ".csv", "a CSV file in HRNet's format")
    with (
        readable(path, "a CSV file in UTF-8", UnicodeDecodeError, csv.Error),
        path.open(newline="", encoding="utf-8-sig") as file,
    ):
        reader = csv.reader(file)
        header = [name.strip() for name in next(reader, [])]
        rows = [(reader.line_num, row) for row in reader if any(f.strip() for f in row)]
    first = _read_header(path, header)
    faces, skipped = gather(rows, lambda row: _read_row(path, header, first, *row), how)
    return ImageFaces(path.stem, faces, skipped, orient=how.orient, chosen=how.chosen)


def _read_header(path: Path, header: list[str]) -> int:
    """The column of the first coordinate."""
    first = 5 if "box_size" in header else 4
    named = {*_FIRST, "box_size"} if first == 5 else {*_FIRST}
    points = (len(header) - first) // 2
    wanted = [f"original_{i}_{axis}" for i in range(points) for axis in "xy"]
    if not (named == set(header[:first]) and points > 0 and header[first:] == wanted):
        shown = ",".join(header[:6])[:80]
        raise DataError(
            f"{path}, line 1: found {len(header)} columns {shown},..., expected {','.join(_FIRST)},"
            "original_0_x,original_0_y,... (and box_size for AFLW)"
        )
    return first


def _read_row(path: Path, header: list[str], first: int, number: int, row: list[str]) -> Face:
    where = f"{path}, line {number}"
    if len(row) != len(header):
        raise DataError(f"{where}: found {len(row)} fields, expected {len(header)}")
    name = row[header.index("image_name")].strip()
    if not name:
        raise DataError(f"{where}: found no image name")
    values = {}
    for column, text in zip(header, row, strict=True):
        if column != "image_name":
            try:
                values[column] = parse_number(text)
            except ValueError:
                raise DataError(
                    f"{where}: found {column} = {text[:40]!r}, expected a number"
                ) from None
    side = values.get("box_size", PIXELS_OF_SCALE * values["scale"])
    box = centred_box(values["center_w"], values["center_h"], side)
    return Face(
        name,
        checked_landmarks(np.array([values[column] for column in header[first:]]), where),
        checked_box(box, where),
        path.stem,
        find_image(path, name),
        source=f"{path.name}, line {number}",
    )


def centred_box(x: float, y: float, side: float) -> np.ndarray:
    """The square (4,) about a centre."""
    return np.array([x - side / 2, y - side / 2, x + side / 2, y + side / 2])


def _recognises(root: Path) -> bool:
    if root.is_file():
        return root.suffix.lower() != ".json" and _has_the_header(root)
    return any(_has_the_header(path) for path in sorted(root.glob("*.csv")))


def _has_the_header(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8-sig") as file:
            return file.readline(200).lstrip().startswith("image_name,scale,")
    except (OSError, UnicodeDecodeError):
        return False


BENCHMARK = Benchmark(name="hrnet", read=read_hrnet, recognises=_recognises, suffixes=(".csv",))
