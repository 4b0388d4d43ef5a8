"""300W: 68 points, images next to their .pts files in the official folders.

::

    root/afw/                                   337 faces
    root/helen/trainset/  root/helen/testset/  2000 + 330
    root/lfpw/trainset/   root/lfpw/testset/    811 + 224
    root/ibug/                                  135

The mirror that dlib's author hosts has the same folders in ibug_300W_large_face_landmark_dataset/
and adds mirrored copies, `*_mirror.jpg`, which are left out here.

The boxes of the benchmark's detector are files of their own, bounding_boxes_lfpw_trainset.mat and
so on; they are read where they lie in the root, in `Bounding Boxes/` or `Bounding_Boxes/`.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from ccdn.data.benchmark import Benchmark, PaperTable
from ccdn.data.faces import Face, ImageFaces, Skipped, checked_box
from ccdn.data.formats.mat import load_mat
from ccdn.data.images import DataError
from ccdn.data.readers.gather import Reading, reading
from ccdn.data.readers.official_splits import check_split
from ccdn.data.readers.pts_pairs import pair_files, read_pair

POINTS = 68

MIRROR = "ibug_300W_large_face_landmark_dataset"
BOX_FOLDERS = ("", "Bounding Boxes", "Bounding_Boxes")

PART_SIZES = {
    "afw": 337,
    "helen/trainset": 2000,
    "lfpw/trainset": 811,
    "helen/testset": 330,
    "lfpw/testset": 224,
    "ibug": 135,
}

SPLITS = {
    "train": ("afw", "helen/trainset", "lfpw/trainset"),
    "common": ("helen/testset", "lfpw/testset"),
    "challenging": ("ibug",),
    "full": ("helen/testset", "lfpw/testset", "ibug"),
    "test": ("helen/testset", "lfpw/testset", "ibug"),
    "helen": ("helen/testset",),
    "lfpw": ("lfpw/testset",),
    **{part: (part,) for part in PART_SIZES},
}


def read_300w(
    root: str | Path,
    split: str = "train",
    skip_bad: bool = False,
    *,
    missing_points: str = "error",
    orientation: str = "auto",
) -> ImageFaces:
    """Open a split of 300W: train, common, challenging, full (also called test), or a single part.

    Single parts are helen and lfpw (their test sets), afw, ibug, helen/trainset, helen/testset,
    lfpw/trainset, lfpw/testset. Faces carry the detector's box where its file is there. A part that
    is absent or not of its official size gives a UserWarning with found and expected counts. Raises
    DataError when nothing is found, and for the first bad file unless `skip_bad`, which logs and
    counts them in `skipped` (and then also checks every image). `missing_points` and `orientation`
    (auto: as stored) are those of `ccdn.data.open_faces`.
    """
    root = Path(root)
    how = reading(skip_bad, missing_points, orientation, first=1)
    check_split("300W", split, SPLITS)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder, expected the 300W data")
    if (root / MIRROR).is_dir():
        root = root / MIRROR
    skipped = Skipped()
    faces: list[Face] = []
    short = []
    for part in SPLITS[split]:
        before = len(faces)
        if (root / part).is_dir():
            faces += _read_part(root, part, how, skipped)
        found = len(faces) - before
        if found != PART_SIZES[part]:
            short.append(f"{part}: found {found}, expected {PART_SIZES[part]}")
    if not faces and not skipped.count:
        raise DataError(
            f"{root}: no 300W faces of the split {split!r}. Looked for images with .pts files in "
            f"{', '.join(str(root / part) for part in SPLITS[split])}; the root must be the folder "
            "that holds afw/, helen/trainset/, helen/testset/, lfpw/trainset/, lfpw/testset/, ibug/"
        )
    if short:
        warnings.warn(
            f"{root}: the split {split!r} of 300W is not the official one "
            f"({len(faces)} faces, expected {sum(PART_SIZES[part] for part in SPLITS[split])}): "
            + "; ".join(short),
            stacklevel=2,
        )
    return ImageFaces(f"300W {split}", faces, skipped, orient=how.orient, chosen=how.chosen)


def _read_part(root: Path, part: str, how: Reading, skipped: Skipped) -> list[Face]:
    faces = []
    boxes = read_boxes(root, part)
    for stem, image, annotation in pair_files(root / part, ignore_suffix="_mirror"):
        pair = read_pair(image, annotation, POINTS, how, skipped)
        if pair is not None:
            path, landmarks = pair
            box = boxes.get(stem, boxes.get(_key(stem)))
            faces.append(Face(f"{part}/{stem}", landmarks, box, part, path))
    return faces


def read_boxes(root: Path, part: str) -> dict[str, np.ndarray]:
    """The detector's boxes of a part by the image's stem, with and without spaces; empty without
    the file.

    The file holds a cell of structs for each image: its name, the detector's box and that around
    the landmarks, both x0 y0 x1 y1 and 1-based. Raises DataError for a file of another content,
    or with two boxes for an image.
    """
    name = f"bounding_boxes_{part.replace('/', '_')}.mat"
    path = next((p for f in BOX_FOLDERS if (p := root / f / name).is_file()), None)
    if path is None:
        return {}
    (cells,) = load_mat(path, "bounding_boxes")
    found: dict[str, np.ndarray] = {}
    named: set[str] = set()
    for number, cell in enumerate(cells.reshape(-1), start=1):
        where = f"{path}, entry {number}"
        try:
            entry = np.asarray(cell).reshape(-1)[0]
            image, box = str(entry["imgName"]), np.asarray(entry["bb_detector"], np.float64)
        except (TypeError, ValueError, IndexError):
            raise DataError(f"{where}: expected imgName, bb_detector, bb_ground_truth") from None
        if box.shape != (4,):
            raise DataError(f"{where}: found bb_detector of {box.size} numbers, expected 4")
        stem = Path(image).stem
        if stem in named:
            raise DataError(f"{where}: found a second box for {image!r}, expected one")
        named.add(stem)
        found[stem] = checked_box(box - 1.0, where)
        found.setdefault(_key(stem), found[stem])
    return found


def _key(stem: str) -> str:
    # Some names of ibug have a space in the folder and none in the file of boxes.
    return stem.replace(" ", "")


BENCHMARK = Benchmark(
    name="300w",
    read=read_300w,
    points=POINTS,
    sizes={split: sum(PART_SIZES[part] for part in parts) for split, parts in SPLITS.items()},
    inspected=("train", "common", "challenging", "full"),
    measured=("common", "challenging", "full"),
    markers=("afw", "helen", "lfpw", "ibug", MIRROR),
    groups=SPLITS,
    paper=PaperTable("300w", "table2", ("full", "common", "challenging", "helen", "lfpw")),
)
