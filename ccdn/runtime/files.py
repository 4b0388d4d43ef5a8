"""Atomic writes: a file is either the old one or the new one, never a mixture."""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO


def address_hint(path: str | Path) -> str:
    """What to add to the message that a file or folder is not there: "" unless its name is an
    address, such as https://host/face.jpg, which a Path has with one slash.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)) is None:
        return ""
    return "; addresses are not fetched: download it, and give the file"


@contextmanager
def atomic_write(path: Path, sync: bool = True) -> Iterator[BinaryIO]:
    """Open a temporary file next to `path` that replaces it when the block ends without an error.

    The content is flushed to disk before the rename, so a crash at any moment leaves a complete
    file. After an error the temporary file is removed and `path` is unchanged; an OSError, e.g. of
    a full disk, names `path`. Without `sync` nothing waits for the disk, which suits files that are
    checked when they are read.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile's, which only the owner can read; and reading the umask would change it for all
    # threads.
    name = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    unfinished = name.open("xb")
    try:
        with unfinished as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException as error:
        name.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    if sync:
        _sync_folder(path.parent)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically. Raises ValueError for NaN or infinity."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    with atomic_write(path) as file:
        file.write(text.encode())


class GrowingFile:
    """A file that is written piece by piece as `PATH.partial` and renamed to `path` when complete.

    When `add` returns, the operating system has the piece: a killed process leaves all of them, and
    only a crash of the machine can lose the last ones. An earlier partial file is replaced.
    OSError, e.g. of a full disk, names `path`.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.partial = self.path.with_name(f"{self.path.name}.partial")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.partial.open("wb", buffering=0)
        self._whole = 0  # bytes of whole pieces

    def add(self, piece: bytes) -> None:
        """Write one piece; if that fails, the file is truncated after the previous piece."""
        left = memoryview(piece)
        try:
            while left:
                left = left[self._file.write(left) :]
        except BaseException as error:
            with suppress(OSError):
                self._file.truncate(self._whole)
                self._file.seek(self._whole)
            if isinstance(error, OSError):
                raise OSError(error.errno, error.strerror, str(self.path)) from error
            raise
        self._whole += len(piece)

    def finish(self) -> None:
        """The file is complete: flush it to disk and give it its name."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        finally:
            self._file.close()
        os.replace(self.partial, self.path)
        _sync_folder(self.path.parent)

    def leave(self) -> None:
        """The file stays partial; an empty one is removed."""
        self._file.close()
        if not self._whole:
            self.partial.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files that a process killed while writing `path` left behind."""
    for leftover in Path(path).parent.glob(f".{Path(path).name}.*.tmp"):
        leftover.unlink(missing_ok=True)


def remove_old_leftovers(folder: Path, seconds: float = 3600.0) -> None:
    """Remove temporary files in a folder that no process has written to for this long."""
    for leftover in Path(folder).glob(".*.tmp"):
        with suppress(FileNotFoundError):
            if time.time() - leftover.stat().st_mtime > seconds:
                leftover.unlink()


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
