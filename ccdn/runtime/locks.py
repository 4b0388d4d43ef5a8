"""A lock between processes, so that no two write one folder."""

from __future__ import annotations

import errno
import os
import socket
import sys
import warnings
from functools import cache
from pathlib import Path
from types import TracebackType

from filelock import Timeout, UnixFileLock, WindowsFileLock

# What the system says of a disk without locks.
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP)


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
        # Not `filelock.FileLock`, which falls back to files that outlive a killed process.
        system = WindowsFileLock if sys.platform == "win32" else UnixFileLock
        self._file = system(
            self.path, thread_local=False, fallback_to_soft=False, on_acquired=_sign
        )
        self._warned = False

    def __enter__(self) -> Lock:
        return self

    def take(self, wait: float = 0.0) -> None:
        """Take the lock, unless it is held already. Creates its folder.

        wait: seconds to wait for the process that holds it, after which BusyError is raised. Raises
        OSError if the file cannot be written. On a system or disk without locks it warns and takes
        none.
        """
        if self._file.is_locked or self._warned:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._file.acquire(timeout=wait)
        except Timeout:
            raise BusyError(
                f"{self.path.parent}: folder is in use by {_signature(self.path)} (its lock is"
                f" {self.path})"
            ) from None
        except OSError as error:
            if error.errno == errno.ENOSYS:
                _tell_no_locks()
            elif error.errno in _NO_LOCKS:
                warnings.warn(
                    f"{self.path} cannot be locked ({error.strerror}): a second process in this"
                    " folder would not be noticed",
                    stacklevel=2,
                )
            else:
                raise
            self._warned = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._file.is_locked:  # not taken, or taken by the process that forked this one
            return
        try:
            if sys.platform != "win32":  # there an open file stays, and filelock removes it
                self.path.unlink(missing_ok=True)  # while it is held, so no other process has it
        finally:
            self._file.release()


def _sign(descriptor: int) -> None:
    """Write who holds the lock into its file. Windows lets nobody else read the locked byte, which
    is the first, so that byte says nothing.
    """
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f" process {os.getpid()} on {socket.gethostname()}\n".encode())


def _signature(path: Path) -> str:
    """Who holds a lock, as its file says."""
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(1)
            holder = (file.read(1000) or b"").decode(errors="replace").strip()
    except OSError:  # its holder has just removed it
        holder = ""
    return holder or "another process"


@cache
def _tell_no_locks() -> None:
    warnings.warn(
        "this system has no locks of files: a second process in the same folder would not be"
        " noticed",
        stacklevel=3,
    )
