"""AFLW with 19 points: 20000 training and 4386 test faces, visibility of each point.

::

    root/AFLWinfo_release.mat
    root/flickr/{0,2,3}/*.jpg         (or root/data/flickr, as its archives unpack)

The file holds `data` (n, 38), 19 x's and then 19 y's; `bbox` (n, 4) as x1, x2, y1, y2;
`nameList`; `mask_new` (n, 19), 1 where a point can be seen; and `ra`, a 1-based permutation
whose first 20000 faces are the training set. All 19 points are annotated, seen or not, and all
count in NME. A face of the subset frontal has every point visible.

A file with another number of faces, as the project's generator writes, says in `train_faces` how
many of them are for training.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ccdn.data.benchmark import Benchmark, PaperTable
from ccdn.data.faces import Face, ImageFaces, checked_box, checked_landmarks
from ccdn.data.formats.mat import checked_shape, load_mat
from ccdn.data.images import DataError
from ccdn.data.readers.gather import gather, reading
from ccdn.data.readers.official_splits import check_size, check_split

POINTS = 19
FILE = "AFLWinfo_release.mat"
TRAIN, ALL = 20000, 24386
TRAIN_FACES = "train_faces"
# The paper counts 1165 frontal faces, its author's own code 1314.
SIZES = {"train": TRAIN, "test": ALL - TRAIN, "frontal": 1314}


def read_aflw(
    root: str | Path,
    split: str = "train",
    skip_bad: bool = False,
    *,
    missing_points: str = "error",
    orientation: str = "auto",
) -> ImageFaces:
    """Open a split of AFLW-19: train, test, or the test set's frontal faces.

    Faces carry the box of AFLW, by which the norm face_size measures, the visibility of their
    points and the attribute frontal. A split that is not of its official size gives a UserWarning.
    Raises DataError for missing files and the first bad face unless `skip_bad`, which logs and
    counts them in `skipped`; `missing_points` and `orientation` (auto: as stored) are those of
    `ccdn.data.open_faces`.
    """
    root = Path(root)
    how = reading(skip_bad, missing_points, orientation)
    check_split("AFLW", split, SIZES)
    path = root / FILE
    data, bbox, names, mask, order = load_mat(path, "data", "bbox", "nameList", "mask_new", "ra")
    names = names.reshape(-1)
    count = len(names)
    data = checked_shape(data, (None, 2 * POINTS), path, "data")
    bbox = checked_shape(bbox, (None, 4), path, "bbox")
    mask = checked_shape(mask, (None, POINTS), path, "mask_new")
    order = checked_shape(order.reshape(-1), (None,), path, "ra")
    for name, array in (("data", data), ("bbox", bbox), ("mask_new", mask), ("ra", order)):
        if len(array) != count:
            raise DataError(f"{path}: found {len(array)} rows of {name}, expected {count}")
    if not np.array_equal(np.sort(order), np.arange(1, count + 1)):
        raise DataError(f"{path}: found an ra that is no permutation of 1..{count}{_twice(order)}")
    images = next((f for f in (root / "flickr", root / "data" / "flickr") if f.is_dir()), None)
    if images is None:
        raise DataError(f"{root / 'flickr'}: no such folder, expected the images of AFLW")
    chosen, first = order.astype(int) - 1, _train_size(path, count)
    chosen = chosen[:first] if split == "train" else chosen[first:]

    def read(index: int) -> Face:
        where = f"{path}, face {index + 1}"
        seen = mask[index] == 1
        return Face(
            str(names[index]),
            checked_landmarks(data[index].reshape(2, POINTS).T, where),
            checked_box(bbox[index, [0, 2, 1, 3]], where),
            "train" if split == "train" else "test",
            images / str(names[index]),
            seen,
            {"frontal": bool(seen.all())},
            f"{FILE}, face {index + 1}",
        )

    faces, skipped = gather(chosen.tolist(), read, how)
    if split == "frontal":
        faces = [face for face in faces if face.attributes["frontal"]]
    check_size(root, "AFLW", split, len(faces), SIZES)
    return ImageFaces(f"AFLW {split}", faces, skipped, orient=how.orient, chosen=how.chosen)


def _twice(order: np.ndarray) -> str:
    values, counts = np.unique(order, return_counts=True)
    return f": it has face {values[counts > 1][0]:g} twice" if (counts > 1).any() else ""


def _train_size(path: Path, count: int) -> int:
    if count == ALL:
        return TRAIN
    try:
        (given,) = load_mat(path, TRAIN_FACES)
        size = int(given)
    except (DataError, TypeError, ValueError):
        size = -1
    if not 0 <= size <= count:
        raise DataError(
            f"{path}: found {count} faces, expected {ALL}, or the number of training faces in "
            f"{TRAIN_FACES}"
        )
    return size


BENCHMARK = Benchmark(
    name="aflw",
    read=read_aflw,
    points=POINTS,
    sizes=SIZES,
    measured=("test", "frontal"),
    notes={
        "frontal": f"test faces with all {POINTS} points visible; 1165 in the paper,"
        f" {SIZES['frontal']} in its author's code"
    },
    markers=(FILE,),
    attributes=("frontal",),
    paper=PaperTable("aflw", "table4", ("test", "frontal")),
)
