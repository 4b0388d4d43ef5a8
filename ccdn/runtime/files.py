"""Files that are either the old ones or the new ones, never half of each."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def atomic_write(path: Path, sync: bool = True) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` that takes its place when the block ends without an
    error.

    The content is flushed to the disk before the change of names, so that a crash at any moment
    leaves a complete file. After an error the temporary file is removed and `path` is as it was;
    an OSError, e.g. of a full disk, names `path`. Without `sync` nothing waits for the disk: for
    files that are checked when they are read.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile's, which only the owner can read: to ask for the umask is to change it for all
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
    """A file that is written piece by piece as `PATH.partial` and becomes `path` when it is whole.

    Each piece is with the system when `add` returns: a process that is killed leaves all of them,
    and only a crash of the machine can take the last ones. A partial file of before is replaced.
    OSError, e.g. of a full disk, names `path`.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.partial = self.path.with_name(f"{self.path.name}.partial")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.partial.open("wb", buffering=0)
        self._whole = 0  # bytes of whole pieces

    def add(self, piece: bytes) -> None:
        """Write one piece; where that fails, the file is cut behind the piece before."""
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
        """The file is whole: it reaches the disk and gets its name."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        finally:
            self._file.close()
        os.replace(self.partial, self.path)
        _sync_folder(self.path.parent)

    def leave(self) -> None:
        """The file stays partial; with nothing in it, it goes."""
        self._file.close()
        if not self._whole:
            self.partial.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files that a killed process left when it was writing `path`."""
    for leftover in Path(path).parent.glob(f".{Path(path).name}.*.tmp"):
        leftover.unlink(missing_ok=True)


def remove_old_leftovers(folder: Path, seconds: float = 3600.0) -> None:
    """Remove the temporary files in a folder that no process has written to for so long."""
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
