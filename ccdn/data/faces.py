"""What every data set provides: faces with landmarks, and their images.

Landmarks are (L, 2) float32 in pixels, x then y, 0-based, the centre of a pixel at integers. Boxes
are (x0, y0, x1, y1) in the same coordinates.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from ccdn.data.headers import picture_header
from ccdn.data.images import DataError, read_image

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Face:
    """One annotated face: `landmarks` (L, 2) float32, `box` (4,) float32 as provided, or None.

    `name` is unique in its data set; `group` names the part it came from, for reports.
    `visible` (L,) bool says which points can be seen, None where the annotation does not.
    `attributes` are the face's properties by name (WFLW: pose, blur, ...). `source` says where the
    face was read: annotation file and row. `path` is the image's own file; an image without one is
    inside the file `container`. `upright` says whether to turn the picture by its EXIF orientation;
    None if one answer holds for the whole set.
    """

    name: str
    landmarks: np.ndarray
    box: np.ndarray | None = None
    group: str = ""
    path: Path | None = None
    visible: np.ndarray | None = None
    attributes: Mapping[str, bool] = field(default_factory=dict)
    source: str = ""
    container: Path | None = None
    upright: bool | None = None

    @property
    def where(self) -> str:
        """The face's name in errors: its image, else its name, and the row it was read from."""
        name = str(self.path or self.name)
        if len(name.splitlines()) > 1:  # an error stays one line whatever name a file contains
            name = repr(name)
        return f"{name} ({self.source})" if self.source else name


@dataclass
class Skipped:
    """What `skip_bad` left out: the number of entries, and the reason for each."""

    reasons: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """The number of entries left out."""
        return len(self.reasons)

    def add(self, error: Exception) -> None:
        """Count and log one entry."""
        self.reasons.append(str(error))
        log.warning("skipped: %s", error)


@runtime_checkable
class FaceSet(Protocol):
    """A data set of faces. `face` is cheap and reads no image."""

    name: str
    points: int
    skipped: Skipped

    def __len__(self) -> int: ...

    def face(self, index: int) -> Face:
        """The face at an index."""
        ...

    def image(self, index: int) -> np.ndarray:
        """The whole image of that face: uint8 RGB, (H, W, 3)."""
        ...


# A landmark this far outside the image, in sides of its box, is an error in the data. Real
# annotations do guess points beyond the border of the photograph, but close to it.
OUTSIDE_LIMIT = 0.5


def check_landmarks_inside(face: Face, width: int, height: int, side: float | None = None) -> None:
    """Raise DataError for a landmark outside the image by more than OUTSIDE_LIMIT of `side`, by
    default the longer one of the smallest box around the landmarks.
    """
    if side is None:
        side = float(np.ptp(face.landmarks, axis=0).max())
    beyond = np.maximum(-face.landmarks, face.landmarks - [width - 1, height - 1]).max(1)
    worst = int(beyond.argmax())
    if beyond[worst] > OUTSIDE_LIMIT * side:
        x, y = face.landmarks[worst]
        raise DataError(
            f"{face.where}: landmark {worst} at ({x:.1f}, {y:.1f}) is far outside the "
            f"image of {width} x {height} pixels"
        )


@contextmanager
def naming_the_row(face: Face) -> Iterator[None]:
    """For reading a face's image: a DataError about the file also names the annotation's row."""
    try:
        yield
    except DataError as error:
        file, text = str(face.path), str(error)
        if not (face.source and text.startswith(f"{file}:")):
            raise
        raise DataError(face.where + text.removeprefix(file)) from None


# A number beyond float32 is as bad as infinity, and no picture is nearly that large.
COORDINATE_LIMIT = 1e9


def is_coordinate(value: float) -> bool:
    """Whether a number can be a pixel coordinate: finite and less than COORDINATE_LIMIT."""
    return abs(value) < COORDINATE_LIMIT


def checked_box(values: Sequence[float] | np.ndarray, where: str) -> np.ndarray:
    """A box (4,) float32 from x0, y0, x1, y1. Raises DataError with `where` if it is not one."""
    given = np.asarray(values, np.float64)
    usable = bool((np.abs(given) < COORDINATE_LIMIT).all())
    box = given.astype(np.float32) if usable else given
    if not (usable and box[0] < box[2] and box[1] < box[3]):
        found = ", ".join(f"{value:g}" for value in given)
        raise DataError(
            f"{where}: found an empty or inverted box ({found}), expected x0 < x1 and y0 < y1"
        )
    return box


def checked_landmarks(values: np.ndarray, where: str) -> np.ndarray:
    """Landmarks (L, 2) float32. Raises DataError, naming `where`, if one is not finite."""
    points = np.asarray(values, np.float64).reshape(-1, 2)
    bad = ~(np.abs(points) < COORDINATE_LIMIT).all(1)
    if bad.any():
        worst = int(np.argmax(bad))
        raise DataError(
            f"{where}: found landmark {worst} at ({points[worst, 0]}, {points[worst, 1]}), "
            "expected finite numbers"
        )
    return points.astype(np.float32)


def subset_masks(faces: FaceSet) -> dict[str, np.ndarray]:
    """Which faces have each attribute: name -> (faces,) bool; without attributes, empty."""
    found: dict[str, np.ndarray] = {}
    for index in range(len(faces)):
        for name, has in faces.face(index).attributes.items():
            found.setdefault(name, np.zeros(len(faces), bool))[index] = has
    return found


class ImageFaces:
    """Faces whose images are files."""

    def __init__(
        self,
        name: str,
        faces: Sequence[Face],
        skipped: Skipped | None = None,
        orient: bool = True,
        chosen: bool = True,
    ) -> None:
        """`orient`: see `read_image`. If it is False but was not `chosen`, a warning names the
        first picture for which that matters. Raises DataError if there are no faces or point counts
        differ.
        """
        self.name = name
        self.skipped = skipped if skipped is not None else Skipped()
        self._faces = list(faces)
        self.orient = orient
        self._told = chosen or orient
        if not self._faces:
            raise DataError(f"{name}: no usable face ({self.skipped.count} skipped)")
        self.points = len(self._faces[0].landmarks)
        for face in self._faces:
            if len(face.landmarks) != self.points:
                raise DataError(
                    f"{face.where}: found {len(face.landmarks)} points, expected "
                    f"{self.points} as in {self._faces[0].where}"
                )

    def __len__(self) -> int:
        return len(self._faces)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {len(self)} faces, {self.points} points)"

    def face(self, index: int) -> Face:
        """The face at an index; reads no image."""
        return self._faces[index]

    def image(self, index: int) -> np.ndarray:
        """The whole image of that face: uint8 RGB, (H, W, 3). Raises DataError naming the file."""
        path = self._faces[index].path
        if path is None:
            raise DataError(f"{self.name}: face {self._faces[index].name} has no image file")
        upright = self._faces[index].upright
        with naming_the_row(self._faces[index]):
            if not self._told and upright is None:
                self._tell_of_orientation(path)
            return read_image(path, orient=self.orient if upright is None else upright)

    def _tell_of_orientation(self, path: Path) -> None:
        orientation = picture_header(path).orientation
        if orientation != 1:
            self._told = True
            log.warning(
                "%s: %s has EXIF orientation %d and is read as stored, as the format has it "
                "(data.orientation=upright: as its viewers show it, stored: without this warning)",
                self.name,
                path,
                orientation,
            )
