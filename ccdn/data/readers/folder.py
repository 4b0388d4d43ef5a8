"""A user's own faces: images with .pts files next to them, or one CSV file.

The CSV file has a header row and one row a face, several faces may share an image::

    image,x0,y0,x1,y1,...                         any number of points
    photos/anna.jpg,103.5,88.25,...

Paths are relative to the CSV file. Coordinates are pixels, 0-based, the centre of a pixel at
integers (those of .pts files are 1-based). Four more columns may hold a face box: `box_left`,
`box_top`, `box_right`, `box_bottom`; it then serves as box provided. Images are read as an
image viewer shows them, with their EXIF orientation.
"""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from ccdn.data.benchmark import Benchmark
from ccdn.data.faces import Face, ImageFaces, Skipped, is_coordinate
from ccdn.data.images import DataError, readable
from ccdn.data.readers.gather import Reading, gather, reading
from ccdn.data.readers.pts_pairs import pair_files, read_pair
from ccdn.runtime.numbers import parse_number

BOX_COLUMNS = ("box_left", "box_top", "box_right", "box_bottom")


def read_folder(
    root: str | Path,
    points: int | None = None,
    split: str | None = None,
    skip_bad: bool = False,
    *,
    missing_points: str = "error",
    orientation: str = "auto",
) -> ImageFaces:
    """Open a folder of faces, subfolders included, or a CSV file.

    A folder with exactly one CSV file at its top and no .pts files is read by that file. Where the
    root has a subfolder named `split`, that is read. A root without subfolders train and test
    serves every split with all its faces. `points` is the number of landmarks expected; when
    None, that of the first face. Raises DataError when nothing is found, when the root has train
    or test but not the split asked for, and for the first bad file or row unless `skip_bad`,
    which logs and counts them in `skipped` (and then also checks every image). `missing_points` and
    `orientation` (auto: upright) are those of `ccdn.data.open_faces`.
    """
    root = Path(root)
    how = reading(skip_bad, missing_points, orientation, upright=True)
    if root.is_file() and root.suffix.lower() == ".csv":
        return _read_csv(root, points, how)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder, expected images with .pts files or one CSV file")
    root = _split_folder(root, split)
    tables = sorted(path for path in root.iterdir() if path.suffix.lower() == ".csv")
    tables = [path for path in tables if not path.name.startswith(".")]
    annotated = next(_folders_with_pts(root), None)
    if tables and annotated is not None:
        raise DataError(
            f"{root}: found {tables[0].name} and .pts files (in {annotated}), expected one of the "
            "two; name the CSV file itself to read it"
        )
    if len(tables) > 1:
        names = ", ".join(path.name for path in tables)
        raise DataError(f"{root}: found {len(tables)} CSV files ({names}), expected one; name it")
    if tables:
        return _read_csv(tables[0], points, how)
    if annotated is None:
        raise DataError(
            f"{root}: found no .pts file and no CSV file, expected images with .pts files next to "
            "them (in any subfolder) or one CSV file with the columns image,x0,y0,x1,y1,..."
        )
    return _read_pts_folder(root, points, replace(how, first=1))


def _split_folder(root: Path, split: str | None) -> Path:
    if not split:
        return root
    if (root / split).is_dir():
        return root / split
    others = [name for name in ("train", "test") if (root / name).is_dir()]
    if others:
        # Reading the whole root here would quietly mix training and test faces.
        raise DataError(f"{root}: found {' and '.join(others)}, expected a subfolder {split!r}")
    return root


def _folders_with_pts(root: Path) -> Iterator[Path]:
    for folder in [root, *sorted(path for path in root.rglob("*") if path.is_dir())]:
        if any(part.startswith(".") for part in folder.relative_to(root).parts):
            continue
        if any(
            path.suffix.lower() == ".pts" and not path.name.startswith(".")
            for path in folder.iterdir()
        ):
            yield folder


def _read_pts_folder(root: Path, points: int | None, how: Reading) -> ImageFaces:
    faces: list[Face] = []
    skipped = Skipped()
    for folder in _folders_with_pts(root):
        group = folder.relative_to(root).as_posix()
        for stem, image, annotation in pair_files(folder):
            pair = read_pair(image, annotation, points, how, skipped)
            if pair is None:
                continue
            image, landmarks = pair
            points = len(landmarks)
            faces.append(
                Face(
                    (folder / stem).relative_to(root).as_posix(),
                    landmarks,
                    None,
                    "" if group == "." else group,
                    image,
                )
            )
    return ImageFaces(str(root), faces, skipped, orient=how.orient, chosen=how.chosen)


def _read_csv(path: Path, points: int | None, how: Reading) -> ImageFaces:
    with (
        readable(path, "a CSV file in UTF-8", UnicodeDecodeError, csv.Error),
        path.open(newline="", encoding="utf-8-sig") as file,
    ):
        rows = csv.reader(file, skipinitialspace=True)
        header = [name.strip() for name in next(rows, [])]
        columns = _read_csv_header(path, header, points)
        filled = ((rows.line_num, row) for row in rows if any(field.strip() for field in row))
        known: dict[tuple[str, bytes], int] = {}

        def read(numbered: tuple[int, list[str]]) -> Face:
            line, row = numbered
            face = _read_csv_row(path, line, header, row, *columns)
            key = os.path.normpath(face.name), face.landmarks.tobytes()
            if (first := known.setdefault(key, line)) != line:
                raise DataError(
                    f"{path}, line {line}: found the face of {face.name} in line {first} again, "
                    "expected each face once"
                )
            return face

        return ImageFaces(
            str(path), *gather(filled, read, how), orient=how.orient, chosen=how.chosen
        )


def _read_csv_header(
    path: Path, header: list[str], points: int | None
) -> tuple[int, np.ndarray, list[int] | None]:
    """Return the column of the image, those of the points (L, 2), and those of the box or None."""
    if "image" not in header:
        raise DataError(
            f"{path}, line 1: found the columns {', '.join(header[:6]) or 'none'}, "
            "expected image,x0,y0,x1,y1,..."
        )
    if len(set(header)) != len(header):
        twice = sorted({name for name in header if header.count(name) > 1})
        raise DataError(f"{path}, line 1: found the column {twice[0]!r} twice")
    position = {name: column for column, name in enumerate(header)}
    # As many points as columns of an axis: a number in a name may be of any size.
    axes = [name[0] for name in header if re.fullmatch(r"[xy]\d+", name)]
    count = max(axes.count("x"), axes.count("y"))
    missing = [f"{axis}{i}" for i in range(count) for axis in "xy" if f"{axis}{i}" not in position]
    if count == 0 or missing:
        raise DataError(f"{path}, line 1: missing column {missing[0] if missing else 'x0'}")
    if points is not None and count != points:
        raise DataError(f"{path}, line 1: found columns of {count} points, expected {points}")
    box = [position[name] for name in BOX_COLUMNS if name in position]
    if box and len(box) != 4:
        raise DataError(f"{path}, line 1: expected all or none of {', '.join(BOX_COLUMNS)}")
    known = {"image", *BOX_COLUMNS} | {f"{axis}{i}" for i in range(count) for axis in "xy"}
    unknown = [name for name in header if name not in known]
    if unknown:
        raise DataError(
            f"{path}, line 1: unknown column {unknown[0]!r}, expected image, x0, y0, ..., "
            f"{', '.join(BOX_COLUMNS)}"
        )
    columns = np.array([[position[f"x{i}"], position[f"y{i}"]] for i in range(count)])
    return position["image"], columns, box or None


def _read_csv_row(
    path: Path,
    line: int,
    header: list[str],
    row: list[str],
    image: int,
    columns: np.ndarray,
    box: list[int] | None,
) -> Face:
    if len(row) != len(header):
        raise DataError(f"{path}, line {line}: found {len(row)} fields, expected {len(header)}")
    values = np.full(len(row), np.nan)
    for column in [*columns.ravel().tolist(), *(box or [])]:
        try:
            values[column] = parse_number(row[column])
        except ValueError:
            values[column] = math.nan
        if not is_coordinate(values[column]):
            raise DataError(
                f"{path}, line {line}: found {header[column]} = {row[column][:40]!r}, "
                "expected a finite number"
            )
    name = row[image].strip()
    if not name:
        raise DataError(f"{path}, line {line}: found no image name")
    provided = None
    if box is not None:
        provided = values[box].astype(np.float32)
        if not (provided[0] < provided[2] and provided[1] < provided[3]):
            raise DataError(
                f"{path}, line {line}: found an empty or inverted box {values[box].tolist()}"
            )
    return Face(
        name,
        values[columns].astype(np.float32),
        provided,
        path=path.parent / name,
        source=f"{path.name}, line {line}",
    )


BENCHMARK = Benchmark(
    name="folder",
    read=read_folder,
    reads_points=True,
    recognises=lambda root: True,
    suffixes=(".csv",),
)
