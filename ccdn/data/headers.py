"""Size and EXIF orientation of a picture, from its header; pixels are decoded only if necessary."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from ccdn.data.images import DataError, cv2, decode, read_bytes

_EXIF = b"Exif\0\0"
_ORIENTATION, _SHORT = 0x0112, 3


class Header(NamedTuple):
    """Width and height of the pixels as stored, and the EXIF orientation, 1 to 8; 1: upright."""

    width: int
    height: int
    orientation: int = 1

    @property
    def stored(self) -> tuple[int, int]:
        """Width and height of the pixels as stored."""
        return self.width, self.height

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height of the picture after applying its orientation."""
        return (self.height, self.width) if self.orientation > 4 else self.stored


def picture_header(path: str | Path) -> Header:
    """The header of a picture's file. Raises DataError with the file if it has none."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            found = _parse(file)
    except FileNotFoundError:
        raise DataError(f"{path}: image not found") from None
    except OSError as error:
        raise DataError(f"{path}: cannot read the image: {error.strerror or error}") from None
    return found or _by_decoding(path)


def _parse(file: BinaryIO) -> Header | None:
    """The header of a JPEG, or of a PNG, BMP or WebP without EXIF; None for any other file."""
    start = file.read(32)
    try:
        if start.startswith(b"\xff\xd8"):
            file.seek(2)
            return _jpeg(file)
        if start.startswith(b"\x89PNG\r\n\x1a\n"):
            file.seek(8)
            return _png(file)
        if start.startswith(b"BM"):
            width, height = struct.unpack_from("<ii", start, 18)
            return Header(width, abs(height)) if start[14:18] == b"\x28\0\0\0" else None
        if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
            return _webp(start)
    except (struct.error, IndexError):
        pass  # truncated: the decoder reports it
    return None


def _jpeg(file: BinaryIO) -> Header | None:
    orientation = 1
    while True:
        marker, kind = struct.unpack("BB", file.read(2))
        if marker != 0xFF:
            return None
        while kind == 0xFF:  # fill bytes
            kind = file.read(1)[0]
        if kind == 0x01 or 0xD0 <= kind <= 0xD8:
            continue
        (length,) = struct.unpack(">H", file.read(2))
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">xHH", file.read(5))
            return Header(width, height, orientation)
        if kind in (0xD9, 0xDA) or length < 2:
            return None
        content = file.read(length - 2) if kind == 0xE1 else b""
        if content.startswith(_EXIF) and orientation == 1:
            orientation = exif_orientation(content[len(_EXIF) :])
        file.seek(length - 2 - len(content), 1)


def _png(file: BinaryIO) -> Header | None:
    size = None
    while True:
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind == b"IHDR":
            size = struct.unpack(">II", file.read(8))
            length -= 8
        elif kind == b"eXIf":
            return None  # whether it is heeded depends on the decoder
        elif kind == b"IEND":
            return None if size is None else Header(*size)
        file.seek(length + 4, 1)


def _webp(start: bytes) -> Header | None:
    if start[12:16] == b"VP8X" and not start[20] & 0x08:  # the extended format, without EXIF
        sides = (int.from_bytes(start[at : at + 3], "little") + 1 for at in (24, 27))
        return Header(*sides)
    if start[12:16] == b"VP8 ":
        width, height = struct.unpack_from("<HH", start, 26)
        return Header(width & 0x3FFF, height & 0x3FFF)
    if start[12:16] == b"VP8L":
        bits = int.from_bytes(start[21:25], "little")
        return Header((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    return None


def exif_orientation(tiff: bytes) -> int:
    """The orientation in the first directory of EXIF data, 1 to 8; 1 if it has none."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (place,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, place)
        for entry in range(place + 2, place + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", tiff, entry)
            if tag == _ORIENTATION:
                return value if kind == _SHORT and 1 <= value <= 8 else 1
    except struct.error:
        pass  # the directory is truncated
    return 1


def _by_decoding(path: Path) -> Header:
    """Which of the eight orientations OpenCV applies, found by reading the pixels both ways."""
    content = read_bytes(path)
    stored = decode(path, content, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    upright = decode(path, content, cv2.IMREAD_COLOR)
    height, width = stored.shape[:2]
    fits = (k for k in range(1, 9) if np.array_equal(turned(stored, k), upright))
    return Header(width, height, next(fits, 1))


def turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels (H, W, 3) as their EXIF orientation, 1 to 8, shows them."""
    if orientation > 4:
        image = image.transpose(1, 0, 2)
    across = orientation in (2, 3, 6, 7)
    down = orientation in (3, 4, 7, 8)
    return image[:: -1 if down else 1, :: -1 if across else 1]
