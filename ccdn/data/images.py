"""Reads images as uint8 RGB, with an error that names the file for anything but a whole image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ccdn.data.image_types import MOST_PIXELS

try:
    import cv2
except ImportError as error:  # pragma: no cover - needs a broken installation
    raise ImportError(
        f"OpenCV cannot be imported ({error}). Install one of its packages, not several: "
        "`pip uninstall opencv-python opencv-python-headless`, then "
        "`pip install 'opencv-python-headless>=4.8,<5'` (needs no display libraries)."
    ) from error

from ccdn.data.jpeg import lacks_blocks, parse_jpeg, shows_grey
from ccdn.runtime.files import address_hint

__all__ = ["IMAGE_SUFFIXES", "DataError", "check_image", "cv2", "read_image", "readable"]

_PNG_END = b"IEND\xae\x42\x60\x82"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


class DataError(ValueError):
    """Input data that cannot be used; the message names the file and what was expected."""


@contextmanager
def readable(path: Path, what: str, *errors: type[Exception]) -> Iterator[None]:
    """For reading a file: raises DataError if that fails or if one of `errors` shows that the file
    is not `what`."""
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
    path = Path(path)
    flags = cv2.IMREAD_COLOR if orient else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    return cv2.cvtColor(decode(path, read_bytes(path), flags), cv2.COLOR_BGR2RGB)


def check_image(path: str | Path, orient: bool = True) -> tuple[int, int]:
    """Width and height in pixels, each to within 7; cheaper than reading the image.

    `orient`: see `read_image`. Raises DataError when the file is not a whole image.
    """
    path = Path(path)
    flags = cv2.IMREAD_REDUCED_COLOR_8
    if not orient:
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    height, width = decode(path, read_bytes(path), flags).shape[:2]
    return 8 * width, 8 * height


def read_bytes(path: Path) -> bytes:
    """The content of an image file. Raises DataError naming it, also when it is empty."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: image not found{address_hint(path)}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot read the image: {error.strerror or error}") from None
    if not content:
        raise DataError(f"{path}: the image file is empty")
    return content


def decode(path: Path, content: bytes, flags: int) -> np.ndarray:
    """The pixels of an image file, BGR, by OpenCV's `flags`. Raises DataError naming the file if it
    is not an image or not a whole one.
    """
    # Decoders paint the missing part of a truncated file grey and only print a warning.
    jpeg = parse_jpeg(content) if content.startswith(b"\xff\xd8") else None
    png = content.startswith(b"\x89PNG\r\n\x1a\n")
    if (png and _PNG_END not in content) or (content.startswith(b"\xff\xd8") and jpeg is None):
        raise DataError(f"{path}: the image file is truncated ({len(content)} bytes)")
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error as error:
        why = error.err
        if "MAX_IMAGE_" in why:
            why = f"more pixels than OPENCV_IO_MAX_IMAGE_PIXELS, which is {MOST_PIXELS} unless set"
        raise DataError(f"{path}: cannot decode the image: {why}") from None
    if image is None:
        raise DataError(f"{path}: not an image that OpenCV can decode ({len(content)} bytes)")
    if jpeg is not None and jpeg.known:
        reduced = flags & cv2.IMREAD_REDUCED_COLOR_8 == cv2.IMREAD_REDUCED_COLOR_8
        suspect = not jpeg.plain or shows_grey(image, 1 if reduced else 4)
        if suspect and lacks_blocks(content, jpeg.plain):
            raise DataError(
                f"{path}: the image file is truncated: it has an end marker, but its pixels end "
                "before it"
            )
    return image
