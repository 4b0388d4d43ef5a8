"""WFLW: 98 points, six attributes, 7500 training and 2500 test faces.

::

    root/WFLW_images/
    root/list_98pt_rect_attr_train_test/list_98pt_rect_attr_{train,test}.txt

A row of 207 fields is a face, and several faces share an image: 196 coordinates, the rectangle
x_min y_min x_max y_max, six flags, the image's path under `WFLW_images`. The lists may also lie
in `WFLW_annotations/`, where their archive puts them. The rectangles cut many faces: a margin of
25 % holds most, some need 64 %.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ccdn.data.benchmark import Benchmark, PaperTable
from ccdn.data.faces import Face, ImageFaces, checked_box, checked_landmarks
from ccdn.data.images import DataError
from ccdn.data.readers.gather import gather, reading
from ccdn.data.readers.official_splits import check_size, check_split
from ccdn.runtime.numbers import parse_number

POINTS = 98
FIELDS = 2 * POINTS + 4 + 6 + 1
ATTRIBUTES = ("pose", "expression", "illumination", "makeup", "occlusion", "blur")
LIST_FOLDER = "list_98pt_rect_attr_train_test"
SIZES = {
    "train": 7500,
    "test": 2500,
    **dict(zip(ATTRIBUTES, (326, 314, 698, 206, 736, 773), strict=True)),
}


def read_wflw(
    root: str | Path,
    split: str = "train",
    skip_bad: bool = False,
    *,
    missing_points: str = "error",
    orientation: str = "auto",
) -> ImageFaces:
    """Open a split of WFLW: train, test, or one of the test set's subsets, named as ATTRIBUTES.

    Faces carry the annotated rectangle as their box and the six attributes. A split that is not of
    its official size gives a UserWarning. Raises DataError for missing files and the first bad row
    unless `skip_bad`, which logs and counts them in `skipped`; `missing_points` and `orientation`
    (auto: as stored) are those of `ccdn.data.open_faces`.
    """
    root = Path(root)
    how = reading(skip_bad, missing_points, orientation)
    check_split("WFLW", split, SIZES)
    part = "train" if split == "train" else "test"
    table = find_list(root, part)
    images = root / "WFLW_images"
    if not images.is_dir():
        raise DataError(f"{images}: no such folder, expected the images of WFLW")
    try:
        lines = table.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DataError(f"{table}: not a text file, expected rows of {FIELDS} fields") from None
    except OSError as error:
        raise DataError(f"{table}: cannot read: {error.strerror or error}") from None
    rows = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    faces, skipped = gather(rows, lambda row: read_row(table, images, part, *row), how)
    if split in ATTRIBUTES:
        faces = [face for face in faces if face.attributes[split]]
    check_size(root, "WFLW", split, len(faces), SIZES)
    return ImageFaces(f"WFLW {split}", faces, skipped, orient=how.orient, chosen=how.chosen)


def find_list(root: Path, part: str) -> Path:
    """The list of the part train or test. Raises DataError saying where it was looked for."""
    name = f"list_98pt_rect_attr_{part}.txt"
    places = [root / LIST_FOLDER / name, root / "WFLW_annotations" / LIST_FOLDER / name]
    for path in places:
        if path.is_file():
            return path
    raise DataError(f"{root}: no list of WFLW, looked for {' and '.join(map(str, places))}")


def read_row(table: Path, images: Path, group: str, number: int, line: str) -> Face:
    """One row of a list. Raises DataError naming the list, the line, found and expected."""
    where = f"{table}, line {number}"
    fields = line.split(maxsplit=FIELDS - 1)
    if len(fields) != FIELDS:
        raise DataError(f"{where}: found {len(fields)} fields, expected {FIELDS}")
    try:
        values = np.array([parse_number(text) for text in fields[: 2 * POINTS + 4]])
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None
    landmarks = checked_landmarks(values[: 2 * POINTS], where)
    box = checked_box(values[2 * POINTS :], where)
    flags = fields[2 * POINTS + 4 : -1]
    bad = [flag for flag in flags if flag not in ("0", "1")]
    if bad:
        raise DataError(f"{where}: found the attribute {bad[0][:40]!r}, expected 0 or 1")
    name = fields[-1].strip()
    return Face(
        name,
        landmarks,
        box,
        group,
        images / name,
        attributes={key: flag == "1" for key, flag in zip(ATTRIBUTES, flags, strict=True)},
        source=f"{table.name}, line {number}",
    )


BENCHMARK = Benchmark(
    name="wflw",
    read=read_wflw,
    points=POINTS,
    sizes=SIZES,
    measured=("test", *ATTRIBUTES),
    markers=(LIST_FOLDER, f"WFLW_annotations/{LIST_FOLDER}"),
    attributes=ATTRIBUTES,
    paper=PaperTable("wflw", "table5", ("test", *ATTRIBUTES)),
)
