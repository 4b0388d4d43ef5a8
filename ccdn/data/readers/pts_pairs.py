"""Finding the image that belongs to each .pts file of a folder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ccdn.data.faces import Face, Skipped
from ccdn.data.formats.pts import read_pts
from ccdn.data.images import IMAGE_SUFFIXES, DataError
from ccdn.data.readers.gather import Reading


def pair_files(
    folder: Path, ignore_suffix: str | None = None
) -> Iterator[tuple[str, Path | DataError, Path]]:
    """Yield (stem, image, annotation) of a folder, sorted by stem, without its subfolders.

    Suffixes match in any case; hidden files are left out, and stems ending in `ignore_suffix`.
    Where a stem lacks its image or its annotation, or has two images, the second item is the
    DataError that says so, for the caller to raise or to count.
    """
    images: dict[str, list[Path]] = defaultdict(list)
    annotations: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or (ignore_suffix and path.stem.endswith(ignore_suffix)):
            continue
        suffix = path.suffix.lower()
        if suffix == ".pts":
            annotations[path.stem] = path
        elif suffix in IMAGE_SUFFIXES:
            images[path.stem].append(path)
    for stem in sorted(images.keys() | annotations.keys()):
        annotation = annotations.get(stem, folder / f"{stem}.pts")
        candidates = images.get(stem, [])
        if stem not in annotations:
            error = f"{annotation}: annotation not found, expected next to {candidates[0].name}"
            yield stem, DataError(error), annotation
        elif len(candidates) != 1:
            names = ", ".join(path.name for path in candidates) or "none"
            error = f"{annotation}: expected one image of the same name next to it, found {names}"
            yield stem, DataError(error), annotation
        else:
            yield stem, candidates[0], annotation


def read_pair(
    image: Path | DataError, annotation: Path, points: int | None, how: Reading, skipped: Skipped
) -> tuple[Path, np.ndarray] | None:
    """The image's path and its landmarks (L, 2).

    A bad pair raises DataError; with `how.skip_bad` it is counted in `skipped` and the answer is
    None, and the image is checked too, and whether the landmarks lie in it.
    """
    try:
        if isinstance(image, DataError):
            raise image
        landmarks = read_pts(annotation, points)
        how.check_points(landmarks, str(annotation))
        how.check_picture(Face(image.stem, landmarks, path=image))
    except DataError as error:
        if not how.skip_bad:
            raise
        skipped.add(error)
        return None
    return image, landmarks
