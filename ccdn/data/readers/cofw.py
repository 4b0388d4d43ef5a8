"""COFW: 29 points with their occlusion, 1345 training and 507 test faces; and COFW-68, 68 points of
the same test faces.

::

    root/COFW_train_color.mat   IsTr, bboxesTr, phisTr       MATLAB v7.3, which is HDF5
    root/COFW_test_color.mat    IsT, bboxesT, phisT

    root/test_annotations/{1..507}_points.mat                COFW-68: Points (68, 2), Occ (1, 68)
    root/cofw68_test_bboxes.mat                              bboxes (507, 4): x y w h

The images are in the files, some of them grey. `phis` holds x1..x29, y1..y29, occluded1..29 and
`bboxes` x, y, width, height, both 1-based. COFW-68 takes its images from COFW_test_color.mat,
next to or above its folder; without it the annotations can be read but not the images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ccdn.data.benchmark import Benchmark, PaperTable
from ccdn.data.faces import (
    Face,
    ImageFaces,
    Skipped,
    check_landmarks_inside,
    checked_box,
    checked_landmarks,
)
from ccdn.data.formats.mat import checked_shape, load_mat, open_mat73
from ccdn.data.images import DataError
from ccdn.data.readers.gather import gather, reading
from ccdn.data.readers.official_splits import check_size, check_split
from ccdn.runtime.numbers import is_whole

POINTS = 29
SIZES = {"train": 1345, "test": 507}
FILES = {"train": "COFW_train_color.mat", "test": "COFW_test_color.mat"}
_VARIABLES = {"train": ("IsTr", "bboxesTr", "phisTr"), "test": ("IsT", "bboxesT", "phisT")}

POINTS_68 = 68
SIZES_68 = {"test": 507}
FOLDER_68, BOXES_68 = "test_annotations", "cofw68_test_bboxes.mat"


class CofwFaces(ImageFaces):
    """Faces whose images are cells of a COFW file; `cells` gives the cell of each face."""

    def __init__(
        self,
        name: str,
        faces: Sequence[Face],
        skipped: Skipped,
        file: Path | None,
        cells: Sequence[int],
    ) -> None:
        super().__init__(name, faces, skipped, orient=False)
        self._file = file
        self._cells = list(cells)

    def image(self, index: int) -> np.ndarray:
        """The whole image of that face: uint8 RGB, (H, W, 3). Raises DataError naming the file."""
        if self._file is None:
            raise DataError(
                f"{self._faces[index].where}: the images are in {FILES['test']}, which is not there"
            )
        # Opened for each image: worker processes share the place in an open file.
        return read_cell(self._file, self._cells[index])


def read_cell(file: Path, cell: int) -> np.ndarray:
    """Image number `cell` of a COFW file, uint8 RGB (H, W, 3)."""
    split = "test" if file.name == FILES["test"] else "train"
    with open_mat73(file, _VARIABLES[split][0]) as (content, (images,)):
        if not images.is_reference or not 0 <= cell < math.prod(images.shape):
            raise ValueError(f"{_VARIABLES[split][0]} has no cell {cell + 1}")
        found = content.referenced(int(images.read().reshape(-1)[cell])).read()
    # Transposed: (3, W, H), or (W, H) where the image is grey.
    if found.ndim not in (2, 3) or found.dtype != np.uint8 or found.shape[0] == 0:
        raise DataError(
            f"{file}, image {cell + 1}: found {found.dtype} {found.shape[::-1]}, expected uint8 "
            "(H, W, 3) or (H, W)"
        )
    image = found.transpose(2, 1, 0) if found.ndim == 3 else found.T[..., None]
    if image.shape[2] not in (1, 3):
        raise DataError(f"{file}, image {cell + 1}: found {image.shape[2]} channels, expected 3")
    return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))


def read_cofw(
    root: str | Path,
    split: str = "train",
    skip_bad: bool = False,
    *,
    missing_points: str = "error",
    orientation: str = "auto",
) -> CofwFaces:
    """Open a split of COFW with 29 points: train or test.

    Faces carry their box, its corner clamped to the image, and the visibility of their points. A
    split that is not of its official size gives a UserWarning. Raises DataError for a missing or
    damaged file and the first bad face unless `skip_bad`, which logs and counts them.
    `missing_points` is that of `ccdn.data.open_faces`; `orientation` too, and changes nothing: the
    images are plain pixels.
    """
    root = Path(root)
    how = reading(skip_bad, missing_points, orientation, first=1)
    check_split("COFW", split, SIZES)
    file = root / FILES[split]
    with open_mat73(file, *_VARIABLES[split]) as (_, (images, bboxes, phis)):
        cells = math.prod(images.shape)
        table = checked_shape(phis.read().T, (None, 3 * POINTS), file, _VARIABLES[split][2])
        boxes = checked_shape(bboxes.read().T, (None, 4), file, _VARIABLES[split][1])
    if len(table) != cells or len(boxes) != cells:
        raise DataError(
            f"{file}: found {cells} images, {len(boxes)} boxes and {len(table)} annotations, "
            "expected as many of each"
        )
    places: dict[str, int] = {}

    def read(cell: int) -> Face:
        where = f"{file}, face {cell + 1}"
        x, y, occluded = table[cell].reshape(3, POINTS)
        face = Face(
            f"{split}/{cell + 1:04d}",
            checked_landmarks(np.stack([x, y], 1) - 1.0, where),
            checked_box(_one_based(boxes[cell]), where),
            split,
            visible=occluded == 0,
            source=f"{file.name}, face {cell + 1}",
            container=file,
        )
        if skip_bad:
            _check_cell(file, cell, face)
        places[face.name] = cell
        return face

    faces, skipped = gather(range(cells), read, how)
    check_size(root, "COFW", split, len(faces), SIZES)
    return CofwFaces(f"COFW {split}", faces, skipped, file, [places[f.name] for f in faces])


def read_cofw68(
    root: str | Path,
    split: str = "test",
    skip_bad: bool = False,
    *,
    missing_points: str = "error",
    orientation: str = "auto",
) -> CofwFaces:
    """Open COFW-68, which has the split test only.

    Faces carry the visibility of their points, and the detector's box where BOXES_68 is there. A
    size other than the official one gives a UserWarning. Arguments and errors are those of
    `read_cofw`.
    """
    root = Path(root)
    how = reading(skip_bad, missing_points, orientation, first=1)
    check_split("COFW-68", split, SIZES_68)
    folder = root / FOLDER_68 if (root / FOLDER_68).is_dir() else root
    numbers = sorted(
        int(number)
        for path in folder.glob("*_points.mat")
        if is_whole(number := path.name.removesuffix("_points.mat"))
    )
    if len(set(numbers)) != len(numbers) or 0 in numbers:
        odd = next(n for n in numbers if n == 0 or numbers.count(n) > 1)
        what = f"two files of face {odd}" if odd else "a file of face 0"
        raise DataError(f"{folder}: found {what}, expected 1_points.mat, 2_points.mat, ...")
    if not numbers:
        raise DataError(f"{folder}: no annotations of COFW-68, expected 1_points.mat, ...")
    boxes = None
    if (root / BOXES_68).is_file():
        (found,) = load_mat(root / BOXES_68, "bboxes")
        boxes = checked_shape(found, (None, 4), root / BOXES_68, "bboxes")
        if max(numbers) > len(boxes):
            raise DataError(f"{root / BOXES_68}: found {len(boxes)} boxes, expected {max(numbers)}")
    places = (root / FILES["test"], root.parent / FILES["test"])
    images = next((path for path in places if path.is_file()), None)
    cells: dict[str, int] = {}

    def read(number: int) -> Face:
        path = folder / f"{number}_points.mat"
        points, occluded = load_mat(path, "Points", "Occ")
        points = checked_shape(points, (POINTS_68, 2), path, "Points")
        occluded = checked_shape(occluded.reshape(-1), (POINTS_68,), path, "Occ")
        face = Face(
            f"test/{number:04d}",
            checked_landmarks(points - 1.0, str(path)),
            None if boxes is None else checked_box(_one_based(boxes[number - 1]), str(path)),
            "test",
            visible=occluded == 0,
            source=path.name,
            container=images,
        )
        if skip_bad and images is not None:
            _check_cell(images, number - 1, face)
        cells[face.name] = number - 1
        return face

    faces, skipped = gather(numbers, read, how)
    check_size(root, "COFW-68", split, len(faces), SIZES_68)
    kept = [cells[face.name] for face in faces]
    return CofwFaces("COFW-68 test", faces, skipped, images, kept)


def _check_cell(file: Path, cell: int, face: Face) -> None:
    """Raise DataError where a cell is no image or does not hold the landmarks of its face."""
    height, width = read_cell(file, cell).shape[:2]
    check_landmarks_inside(face, width, height)


def _one_based(box: np.ndarray) -> np.ndarray:
    """x0, y0, x1, y1 from a 1-based x, y, width, height; a corner beyond the image is clamped."""
    x, y, width, height = box
    return np.array([max(x - 1, 0.0), max(y - 1, 0.0), x - 1 + width, y - 1 + height])


BENCHMARK = Benchmark(
    name="cofw",
    read=read_cofw,
    points=POINTS,
    sizes=SIZES,
    markers=tuple(FILES.values()),
    paper=PaperTable("cofw29", "table3", ("test",)),
)
BENCHMARK_68 = Benchmark(
    name="cofw68",
    read=read_cofw68,
    points=POINTS_68,
    sizes=SIZES_68,
    markers=(BOXES_68, f"{FOLDER_68}/1_points.mat", "1_points.mat"),
    paper=PaperTable("cofw68", "table3", ("test",)),
)
