"""A lock between processes, so that no two write one folder."""

from __future__ import annotations

import os
import socket
import time
import warnings
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from ccdn.runtime.threads import fork_safe_lock

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
try:
    import msvcrt
except ImportError:  # everything else
    msvcrt = None  # type: ignore[assignment]

# Windows forbids reading locked bytes, so there the lock is on a byte far beyond the text.
_FAR = 1 << 30

# System locks work between processes: opening the file again would release this process's own.
_held_here: set[Path] = set()
_among_threads = fork_safe_lock()
if hasattr(os, "register_at_fork"):  # a child holds none of them
    os.register_at_fork(after_in_child=_held_here.clear)


class BusyError(OSError):
    """Another process holds the lock; the message, one line, names it."""


class Lock:
    """A file that one process at a time can hold, also of machines that share the disk.

    `with Lock(path) as lock: lock.take()` holds it to the end of the block or of the process,
    however that ends: the system releases it, so SIGKILL leaves nothing to clean up. Processes
    forked meanwhile do not hold it, and a second lock in the same process waits like one in another
    process.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._file: BinaryIO | None = None
        self._name = Path()
        self._holder = 0

    def __enter__(self) -> Lock:
        return self

    def take(self, wait: float = 0.0) -> None:
        """Take the lock, unless it is held already. Creates its folder.

        wait: seconds to wait for the process that holds it, after which BusyError is raised. Raises
        OSError if the file cannot be written. On a system or disk without locks it warns and takes
        none.
        """
        if self._file is not None:
            return
        deadline = time.monotonic() + wait
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._name = self.path.resolve()
        while (holder := self._try()) is not None:
            if time.monotonic() >= deadline:
                raise BusyError(
                    f"{self.path.parent}: folder is in use by {holder} (its lock is {self.path})"
                )
            time.sleep(0.05)
        assert self._file is not None
        self._holder = os.getpid()
        self._file.truncate(0)
        self._file.write(f"process {self._holder} on {socket.gethostname()}\n".encode())
        self._file.flush()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is None:
            return
        if self._holder != os.getpid():  # a child that was forked meanwhile
            self._file.close()
            self._file = None
            return
        if msvcrt is not None:  # Windows cannot remove an open file
            self._file.close()
        try:
            self.path.unlink(missing_ok=True)  # while it is held, so no other process has it
        except PermissionError:
            if msvcrt is None:
                raise  # on Windows the next process has it open already
        finally:
            self._file.close()
            self._file = None
            with _among_threads:
                _held_here.discard(self._name)

    def _try(self) -> str | None:
        """Take the lock if it is free; else return who holds it."""
        with _among_threads:
            if self._name in _held_here:
                return f"process {os.getpid()} on {socket.gethostname()}"
            _held_here.add(self._name)
        try:
            while self._file is None:
                file = self.path.open("a+b")
                try:
                    _lock(file)
                except (BlockingIOError, PermissionError):
                    file.seek(0)
                    holder = file.read(1000).decode(errors="replace").strip()
                    file.close()
                    return holder or "another process"
                except OSError as error:
                    warnings.warn(
                        f"{self.path} cannot be locked ({error.strerror}): a second process in this"
                        " folder would not be noticed",
                        stacklevel=3,
                    )
                if self._is_at_its_path(file):
                    self._file = file
                else:  # its holder removed it between opening and locking
                    file.close()
            return None
        finally:
            if self._file is None:
                with _among_threads:
                    _held_here.discard(self._name)

    def _is_at_its_path(self, file: BinaryIO) -> bool:
        try:
            return os.path.samestat(os.fstat(file.fileno()), self.path.stat())
        except FileNotFoundError:
            return False


def _lock(file: BinaryIO) -> None:
    """Lock an open file. Raises BlockingIOError or PermissionError if another process holds it, and
    another OSError if the disk has no locks. On a system without locks it warns once.
    """
    if fcntl is not None:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    elif msvcrt is not None:
        file.seek(_FAR)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        _tell_no_locks()


@cache
def _tell_no_locks() -> None:
    warnings.warn(
        "this system has no locks of files: a second process in the same folder would not be"
        " noticed",
        stacklevel=4,
    )
