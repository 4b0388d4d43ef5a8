"""Which picture the labels belong to: pixels as stored, or as the EXIF orientation shows them.

A phone stores what its sensor saw and records in EXIF how far to turn it. Current tools show
pictures upright, while programs in MATLAB and most in Python read them as stored. Landmarks for one
of the two fall on wrong pixels in the other. If a file states the sizes of its pictures, they
reveal which one it means, provided that they differ.
"""

from __future__ import annotations

from pathlib import Path

from ccdn.data.headers import Header, picture_header
from ccdn.data.images import DataError

_SETTLE = "data.orientation=stored or upright says which"


class Upright:
    """Decides picture by picture for an annotation file; `choice` is auto, stored or upright."""

    def __init__(self, table: Path, choice: str) -> None:
        self.table = table
        self.choice = choice
        self._known: dict[tuple[Path, tuple[int, int] | None], bool | DataError] = {}

    def of(self, picture: Path, size: tuple[int, int] | None) -> bool:
        """Whether labels are of the upright picture, given the `size` (width, height) in the file.

        Raises DataError if neither the stored nor the upright picture has that size, and if nothing
        decides it.
        """
        key = picture, size
        if key not in self._known:
            try:
                self._known[key] = self._decide(picture, picture_header(picture), size)
            except DataError as error:
                self._known[key] = error
        found = self._known[key]
        if isinstance(found, DataError):
            raise DataError(str(found))
        return found

    def _decide(self, picture: Path, header: Header, size: tuple[int, int] | None) -> bool:
        if size is not None and size not in (header.stored, header.upright):
            turned = ""
            if header.stored != header.upright:
                turned = f", upright {_times(header.upright)}"
            raise DataError(
                f"{picture}: found a picture of {_times(header.stored)}{turned} pixels, expected "
                f"{_times(size)} as in {self.table.name}: its labels are of another size"
            )
        if self.choice != "auto":
            return self.choice == "upright"
        if header.orientation == 1:
            return False  # both are the same
        if size is None:
            raise DataError(
                f"{picture}: found EXIF orientation {header.orientation}, and no width and height "
                f"in {self.table.name} that say which picture was labelled: {_SETTLE}"
            )
        if header.stored == header.upright:
            raise DataError(
                f"{picture}: found EXIF orientation {header.orientation}, with which both the "
                f"stored and the upright picture have the {_times(size)} pixels of "
                f"{self.table.name}: {_SETTLE}"
            )
        return size == header.upright


def _times(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
