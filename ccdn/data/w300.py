"""300W: 68 points, images beside their .pts files in the official folders.

::

    root/afw/                                   337 faces
    root/helen/trainset/  root/helen/testset/  2000 + 330
    root/lfpw/trainset/   root/lfpw/testset/    811 + 224
    root/ibug/                                  135

The mirror that dlib's author hosts (ibug_300W_large_face_landmark_dataset) has the same folders and
adds mirrored copies, ``*_mirror.jpg``, which are left out here.
"""

from __future__ import annotations

import warnings
from pathlib import Path

from .faces import Face, ImageFaces, Skipped
from .images import DataError
from .pairs import pair_files, read_pair

POINTS = 68

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


def read_300w(root: str | Path, split: str = "train", skip_bad: bool = False) -> ImageFaces:
    """Open a split of 300W: train, common, challenging, full (also called test), or a single part.

    Single parts are helen and lfpw (their test sets), afw, ibug, helen/trainset, helen/testset,
    lfpw/trainset, lfpw/testset. Faces carry no box. A part that is absent or not of its official
    size gives a UserWarning with found and expected counts. Raises DataError when nothing is found,
    and for the first bad file unless ``skip_bad``, which logs and counts them in ``skipped`` (and
    then also checks every image).
    """
    root = Path(root)
    if split not in SPLITS:
        raise DataError(f"300W has no split {split!r}, expected one of {', '.join(SPLITS)}")
    if not root.is_dir():
        raise DataError(f"{root}: no such folder, expected the 300W data")
    skipped = Skipped()
    faces: list[Face] = []
    short = []
    for part in SPLITS[split]:
        before = len(faces)
        if (root / part).is_dir():
            faces += _read_part(root, part, skip_bad, skipped)
        found = len(faces) - before
        if found != PART_SIZES[part]:
            short.append(f"{part}: found {found}, expected {PART_SIZES[part]}")
    if not faces and not skipped.count:
        raise DataError(
            f"{root}: no 300W faces of the split {split!r}. Looked for images beside .pts files in "
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
    return ImageFaces(f"300W {split}", faces, skipped, orient=False)


def _read_part(root: Path, part: str, skip_bad: bool, skipped: Skipped) -> list[Face]:
    faces = []
    for stem, image, annotation in pair_files(root / part, ignore_suffix="_mirror"):
        pair = read_pair(image, annotation, POINTS, skipped if skip_bad else None)
        if pair is not None:
            faces.append(Face(f"{part}/{stem}", pair[1], None, part, pair[0]))
    return faces
