"""How faces are read: what is done about bad ones, points without a place, and turned pictures."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from ccdn.data.faces import Face, Skipped, check_landmarks_inside, naming_the_row
from ccdn.data.images import DataError, check_image

log = logging.getLogger(__name__)

MISSING_POINTS = ("error", "place")
ORIENTATIONS = ("auto", "stored", "upright")

# What files hold for a point that has no place: 0 0 (MUCT, Menpo's profiles, COCO) and -1 -1
# (RetinaFace, 300W-LP, HRNet's lists). A point outside the picture has neither exactly.
_MARKS = (0.0, -1.0)


@dataclass(frozen=True)
class Reading:
    """What a reader does, beyond its format. `skip_bad` leaves out and counts bad faces instead
    of raising, and checks every image. `missing_points` place takes the marks 0 0 and -1 -1 for
    places. `orient` turns pictures as their EXIF orientation says (see `read_image`). `first` is
    the coordinate that the format gives to the first pixel. `chosen`: the caller chose `orient`.
    """

    skip_bad: bool = False
    missing_points: str = "error"
    orient: bool = False
    first: int = 0
    chosen: bool = False

    def check_points(self, landmarks: np.ndarray, where: str) -> None:
        """Raise DataError, naming `where`, for a landmark (L, 2) that is a mark."""
        missing = missing_point(landmarks, self.first)
        if missing is not None and self.missing_points == "error":
            x, y = landmarks[missing] + self.first
            raise DataError(
                f"{where}: found point {missing} at {x:g} {y:g}, the mark of a point that is not "
                "there, expected its place (data.missing_points=place takes the mark for one)"
            )

    def check_picture(self, face: Face) -> None:
        """With `skip_bad`, raise DataError where a face's file is no whole image or does not hold
        its landmarks.
        """
        if self.skip_bad and face.path is not None:
            with naming_the_row(face):
                orient = self.orient if face.upright is None else face.upright
                width, height = check_image(face.path, orient)
            check_landmarks_inside(face, width, height)


def reading(
    skip_bad: bool, missing_points: str, orientation: str, upright: bool = False, first: int = 0
) -> Reading:
    """The `Reading` of a format whose orientation auto is `upright`, or as stored. Raises DataError
    for other values of `missing_points` and `orientation` than MISSING_POINTS and ORIENTATIONS.
    """
    for name, found, known in (
        ("missing_points", missing_points, MISSING_POINTS),
        ("orientation", orientation, ORIENTATIONS),
    ):
        if found not in known:
            raise DataError(f"found {name} {found!r}, expected one of {', '.join(known)}")
    orient = upright if orientation == "auto" else orientation == "upright"
    return Reading(skip_bad, missing_points, orient, first, orientation != "auto")


def missing_point(landmarks: np.ndarray, first: int = 0) -> int | None:
    """The first of landmarks (L, 2), 0-based, that is 0 0 or -1 -1, in pixels or in the numbers of
    a file whose first pixel is `first`; None if there is no such landmark.
    """
    marks = [mark - start for mark in _MARKS for start in {0, first}]
    marked = (landmarks[:, 0] == landmarks[:, 1]) & np.isin(landmarks[:, 0], marks)
    return int(np.argmax(marked)) if marked.any() else None


_Row = TypeVar("_Row")


def gather(
    rows: Iterable[_Row], read: Callable[[_Row], Face], how: Reading
) -> tuple[list[Face], Skipped]:
    """Read rows into faces of different names.

    The first DataError is raised, or with `how.skip_bad` each is counted; images are then checked
    too, and whether the landmarks lie in them. Several faces of one image are named image,
    image#2, ...; a warning says where some have the same landmarks, too.
    """
    faces: list[Face] = []
    skipped = Skipped()
    counts: dict[str, int] = {}
    seen: dict[tuple[str, bytes], str] = {}
    again: list[str] = []
    for row in rows:
        try:
            face = read(row)
            if faces and len(face.landmarks) != len(faces[0].landmarks):
                raise DataError(
                    f"{face.where}: found {len(face.landmarks)} points, expected "
                    f"{len(faces[0].landmarks)} as in {faces[0].where}"
                )
            if face.path is not None and not os.path.isfile(face.path):
                # Path.is_file raises for too long a name
                raise DataError(f"{face.where}: image not found")
            how.check_points(face.landmarks, face.where)
            how.check_picture(face)
        except DataError as error:
            if not how.skip_bad:
                raise
            skipped.add(error)
            continue
        key = os.path.normpath(face.name), hashlib.sha256(face.landmarks.tobytes()).digest()
        if seen.setdefault(key, face.where) != face.where:
            again.append(f"{face.where} those of {seen[key]}")
        faces.append(replace(face, name=_unused(face.name, counts)))
    if again:
        log.warning("%d faces have the picture and landmarks of others: %s", len(again), again[0])
    return faces, skipped


def _unused(name: str, counts: dict[str, int]) -> str:
    """A name that was not given before: `name`, name#2, ..."""
    found = name
    while found in counts:
        counts[name] += 1
        found = f"{name}#{counts[name]}"
    counts[found] = 1
    return found
