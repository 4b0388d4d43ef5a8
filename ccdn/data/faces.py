"""What every data set gives: faces with landmarks, and their images.

Landmarks are (L, 2) float32 in pixels, x then y, 0-based, the centre of a pixel at integers. Boxes
are (x0, y0, x1, y1) in the same coordinates.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from .images import DataError, read_image

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Face:
    """One annotated face: ``landmarks`` (L, 2) float32, ``box`` (4,) float32 as provided, or None.

    ``name`` is unique in its data set; ``group`` names the part it came from, for reports.
    """

    name: str
    landmarks: np.ndarray
    box: np.ndarray | None = None
    group: str = ""
    path: Path | None = None


@dataclass
class Skipped:
    """What ``skip_bad`` left out: how many, and each with its reason."""

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
    """A data set of faces. ``face`` is cheap and reads no image."""

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


class ImageFaces:
    """Faces whose images are files."""

    def __init__(
        self,
        name: str,
        faces: Sequence[Face],
        skipped: Skipped | None = None,
        orient: bool = True,
    ) -> None:
        """``orient``: see ``read_image``. Raises DataError when empty or of mixed point counts."""
        self.name = name
        self.skipped = skipped if skipped is not None else Skipped()
        self._faces = list(faces)
        self._orient = orient
        if not self._faces:
            raise DataError(f"{name}: no usable face ({self.skipped.count} skipped)")
        self.points = len(self._faces[0].landmarks)
        for face in self._faces:
            if len(face.landmarks) != self.points:
                raise DataError(
                    f"{face.path or face.name}: found {len(face.landmarks)} points, expected "
                    f"{self.points} as in {self._faces[0].path or self._faces[0].name}"
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
        return read_image(path, orient=self._orient)
