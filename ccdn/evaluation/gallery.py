"""A choice of faces as the network saw them, kept with the scores for the report's gallery."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from ccdn.data import DataError
from ccdn.evaluation.figures import exemplars
from ccdn.evaluation.metrics import Array
from ccdn.evaluation.result_files import read_arrays
from ccdn.evaluation.run import Measured
from ccdn.runtime.files import atomic_write

MOST = 240
QUALITY = 85


@dataclass(frozen=True)
class Gallery:
    """indices: (G,) of the faces in the predictions; matrices: (G, 2, 3) from the picture to the
    crop of `size` pixels; pictures: its JPEG files.
    """

    indices: Array
    matrices: Array
    size: int
    pictures: list[bytes]


def choose(measured: Measured, method: str, most: int = MOST) -> list[int]:
    """Faces worth showing, by a method's errors: exemplars of every subset, the worst, and others
    spread evenly over all errors; all of them where there are few. Indices, ascending.
    """
    count = len(measured.reference.truth)
    if count <= most:
        return list(range(count))
    chosen: set[int] = set()
    for result in measured.results:
        for places in exemplars(result.errors[method]).values():
            chosen.update(int(result.indices[place]) for place in places)
    whole = next(r for r in measured.results if len(r.indices) == count)
    order = whole.indices[np.argsort(whole.errors[method], kind="stable")]
    for index in order[::-1][: most // 3]:
        chosen.add(int(index))
    spread = order[np.linspace(0, count - 1, count).round().astype(int)]
    for step in (16, 8, 4, 2, 1):
        for index in spread[::step]:
            if len(chosen) >= most:
                return sorted(chosen)
            chosen.add(int(index))
    return sorted(chosen)


def save_gallery(path: Path, measured: Measured) -> None:
    """Write the first network's crops of chosen faces as one .npz."""
    run = measured.runs[0]
    indices = choose(measured, run.network.name)
    pictures = []
    for index in indices:
        crop = np.asarray(run.crops[index]["image"]).transpose(1, 2, 0)[:, :, ::-1]
        _, data = cv2.imencode(
            ".jpg", np.ascontiguousarray(crop), [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
        )
        pictures.append(data.reshape(-1))
    with atomic_write(path) as file:
        np.savez(
            file,
            indices=np.array(indices, np.int64),
            matrices=run.predictions.matrices[indices],
            size=np.array(run.predictions.size),
            jpeg=np.concatenate(pictures),
            ends=np.cumsum([len(data) for data in pictures]),
        )


def load_gallery(path: Path) -> Gallery:
    """Read what `save_gallery` wrote. Raises DataError, naming the file."""
    try:
        found = read_arrays(path)
        ends = [0, *found["ends"].tolist()]
        jpeg = found["jpeg"].tobytes()
        if ends != sorted(ends) or ends[-1] != len(jpeg):
            raise ValueError("its pictures do not lie one after the other")
        pictures = [jpeg[a:b] for a, b in pairwise(ends)]
        return Gallery(found["indices"], found["matrices"], int(found["size"]), pictures)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a gallery of ccdn evaluate: {error}") from None
