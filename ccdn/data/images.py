"""Reading images: uint8 RGB, and an error naming the file for whatever is not a whole image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

try:
    import cv2
except ImportError as error:  # pragma: no cover - needs a broken installation
    raise ImportError(
        f"OpenCV cannot be imported ({error}). Install one of its packages, not several: "
        "`pip uninstall opencv-python opencv-python-headless`, then "
        "`pip install 'opencv-python-headless>=4.8,<5'` (needs no display libraries)."
    ) from error

__all__ = ["IMAGE_SUFFIXES", "DataError", "check_image", "cv2", "read_image", "readable"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


class DataError(ValueError):
    """Input data that cannot be used; the message names the file and what was expected."""


@contextmanager
def readable(path: Path, what: str, *errors: type[Exception]) -> Iterator[None]:
    """Around reading a file: DataError where that fails, or, by one of `errors`, it is not
    `what`."""
    try:
        yield
    except errors as error:
        raise DataError(f"{path}: not {what}: {error}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror or error}") from None


def read_image(path: str | Path, orient: bool = True) -> np.ndarray:
    """Read an image file as uint8 RGB, (H, W, 3).

    `orient` applies the EXIF orientation, as image viewers do; the annotations of the public
    benchmarks were made on the pixels as stored, so their readers switch it off. Raises DataError
    naming the file when it is missing, not an image, or truncated.
    """
    flags = cv2.IMREAD_COLOR if orient else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    return cv2.cvtColor(_decode(Path(path), flags), cv2.COLOR_BGR2RGB)


def check_image(path: str | Path) -> tuple[int, int]:
    """Width and height in pixels, each to within 7; cheaper than reading the image.

    Raises DataError when the file is not a whole image.
    """
    height, width = _decode(Path(path), cv2.IMREAD_REDUCED_COLOR_8).shape[:2]
    return 8 * width, 8 * height


def _decode(path: Path, flags: int) -> np.ndarray:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: image not found") from None
    except OSError as error:
        raise DataError(f"{path}: cannot read the image: {error.strerror or error}") from None
    if not content:
        raise DataError(f"{path}: the image file is empty")
    # Decoders paint the missing part of a truncated file grey and only print a warning.
    if _is_truncated(content):
        raise DataError(f"{path}: the image file is truncated ({len(content)} bytes)")
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error as error:
        raise DataError(f"{path}: cannot decode the image: {error.err}") from None
    if image is None:
        raise DataError(f"{path}: not an image that OpenCV can decode ({len(content)} bytes)")
    return image


def _is_truncated(content: bytes) -> bool:
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return b"IEND\xae\x42\x60\x82" not in content
    if content.startswith(b"\xff\xd8"):
        return not _jpeg_is_whole(content)
    return False


def _jpeg_is_whole(content: bytes) -> bool:
    """Whether an end marker follows the first scan (a thumbnail in the header has its own)."""
    position = 2
    while position + 4 <= len(content):
        if content[position] != 0xFF:
            return True  # not the marker structure we know: leave the verdict to the decoder
        marker = content[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker == 0xDA:  # start of scan: entropy-coded data escapes every 0xFF byte
            return content.find(b"\xff\xd9", position) >= 0
        elif marker == 0x01 or 0xD0 <= marker <= 0xD9:  # markers without a payload
            position += 2
        else:
            position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    return False
