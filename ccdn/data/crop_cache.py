"""Regions of faces on disk, so that a photograph is decoded once instead of in every run.

A folder holds one small file for each face. The processes that read it map it into memory and share
its pages; nothing is copied before the warp. Layout of a file:

    MAGIC | length of the header, 4 bytes, little-endian | header, JSON | zeros | pixels

The pixels begin at a multiple of _ALIGN. The header states their origin (size and time of the
photograph, and a digest of everything else that determines them) and how to read them, and carries
checksums of itself and of the pixels. Files are written under a temporary name and renamed, so
workers and processes may fill one folder at the same time: they all write the same.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import mmap
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ccdn.data.faces import Face
from ccdn.runtime.files import atomic_write, remove_old_leftovers

log = logging.getLogger(__name__)

MAGIC = b"ccdn region 1\n"
_ALIGN = 64
_TOLD = 3  # damaged files named in the log; further ones are counted


@dataclass(frozen=True)
class Region:
    """The pixels of a face that any random change may need.

    pixels uint8 (H, W, 3); the matrix (2, 3) float64 from the image to them, which only scales and
    moves; the square box (4,) float64, margin included; and whether that box is the landmarks'
    because the detector found none.
    """

    pixels: np.ndarray
    matrix: np.ndarray
    box: np.ndarray
    missing: bool = False


class _DamagedError(Exception):
    """A file that is not what `save` wrote."""


class CropCache:
    """The regions of one set of faces in a folder, each checked when it is first read.

    `settings` are the parameters of the crops as plain values; other values give other files. A
    file that is damaged, or was made from a photograph or annotation that has since changed, is
    reported and not used, and `save` replaces it. A folder that cannot be written to is reported
    once; its files are still read.
    """

    def __init__(self, folder: str | Path, settings: dict[str, Any]) -> None:
        self.folder = Path(folder)
        self.writable = True
        self.damaged = 0
        self.stale = 0
        self._settings = json.dumps(settings, sort_keys=True)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_old_leftovers(self.folder)
        except OSError as error:
            self._give_up(error)

    def load(self, face: Face) -> Region | None:
        """The region of a face, with read-only pixels mapped from disk; None if it must be made."""
        source = _source(face)
        if source is None:
            return None
        path = self._path(face)
        try:
            with path.open("rb") as file:
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:  # ValueError: the file is empty
            self._tell_damaged(path, error)
            return None
        try:
            made_from = self._made_from(face, source)
        except OSError:  # reading the photograph will report it
            return None
        try:
            header, pixels = _parse(content)
            if header["made_from"] != made_from:
                self.stale += 1
                if self.stale <= _TOLD:
                    log.warning(
                        "%s: not of %s and its annotation as they are now: made again", path, source
                    )
                return None
            matrix = np.array(header["matrix"], np.float64).reshape(2, 3)
            box = np.array(header["box"], np.float64).reshape(4)
            return Region(pixels, matrix, box, bool(header["missing"]))
        except (_DamagedError, KeyError, TypeError, ValueError, RecursionError) as error:
            self._tell_damaged(path, error)
            return None

    def save(self, face: Face, region: Region) -> None:
        """Put the region of a face into the folder, if there is a file to check it against."""
        source = _source(face)
        if source is None or not self.writable:
            return
        try:
            header = {
                "made_from": self._made_from(face, source),
                "shape": list(region.pixels.shape),
                "matrix": region.matrix.ravel().tolist(),
                "box": region.box.tolist(),
                "missing": region.missing,
                "pixels": zlib.crc32(np.ascontiguousarray(region.pixels).data),
            }
            text = json.dumps(header).encode()
            start = MAGIC + len(text).to_bytes(4, "little") + text
            start += zlib.crc32(start).to_bytes(4, "little")
            with atomic_write(self._path(face), sync=False) as file:
                file.write(start + bytes(-len(start) % _ALIGN))
                file.write(np.ascontiguousarray(region.pixels).data)
        except OSError as error:
            self._give_up(error)

    def _path(self, face: Face) -> Path:
        return self.folder / f"{_digest(self._settings, _identity(face))[:32]}.region"

    def _made_from(self, face: Face, source: Path) -> dict[str, Any]:
        """The header's description of the photograph and the annotation. Raises OSError."""
        found = source.stat()
        box = b"" if face.box is None else np.asarray(face.box, np.float64).tobytes()
        landmarks = np.asarray(face.landmarks, np.float64).tobytes()
        turned = {} if face.upright is None else {"upright": face.upright}
        return {
            **turned,
            "settings": self._settings,
            "face": _identity(face),
            "annotation": hashlib.sha256(landmarks + box).hexdigest(),
            "bytes": found.st_size,
            "changed_ns": found.st_mtime_ns,
        }

    def _tell_damaged(self, path: Path, error: Exception) -> None:
        self.damaged += 1
        if self.damaged <= _TOLD:
            log.warning("%s: damaged (%s): made again", path, error)

    def _give_up(self, error: OSError) -> None:
        self.writable = False
        log.warning(
            "%s: crops cannot be kept on disk (%s): what is not there is decoded from the images",
            self.folder,
            error.strerror or error,
        )


def has_source(face: Face) -> bool:
    """Whether there is a file to check a face's region against."""
    return _source(face) is not None


def _source(face: Face) -> Path | None:
    return face.path if face.path is not None else face.container


def _identity(face: Face) -> str:
    """A face among all: its image file, and its name in the set."""
    source = _source(face)
    return f"{'' if source is None else source.absolute()}|{face.name}"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()


def _parse(content: mmap.mmap) -> tuple[dict[str, Any], np.ndarray]:
    """Header and pixels (H, W, 3) of a file. Raises _DamagedError."""
    begin = len(MAGIC) + 4
    if content[: len(MAGIC)] != MAGIC:
        raise _DamagedError("it does not begin as a region does")
    end = begin + int.from_bytes(content[len(MAGIC) : begin], "little")
    if content[end : end + 4] != zlib.crc32(content[:end]).to_bytes(4, "little"):
        raise _DamagedError("the check sum of its header is wrong")
    header = json.loads(content[begin:end])
    shape = tuple(header["shape"])
    start = end + 4 + -(end + 4) % _ALIGN
    if not all(type(side) is int and side > 0 for side in shape):
        raise _DamagedError(f"found pixels of {shape}")
    count = math.prod(shape)  # Python's numbers do not overflow
    if len(shape) != 3 or shape[2] != 3 or len(content) != start + count:
        raise _DamagedError(f"found {len(content)} bytes, expected {start + count}")
    pixels = np.frombuffer(content, np.uint8, count, start)
    if zlib.crc32(pixels.data) != header["pixels"]:
        raise _DamagedError("the check sum of its pixels is wrong")
    return header, pixels.reshape(shape)
