"""A lock between processes, so that no two write one folder."""

from __future__ import annotations

import fcntl
import os
import socket
import time
import warnings
from pathlib import Path
from types import TracebackType
from typing import TextIO


class BusyError(OSError):
    """Another process holds the lock; the message, one line, names it."""


class Lock:
    """A file that one process at a time can hold, also of machines that share the disk.

    `with Lock(path) as lock: lock.take()` holds it to the end of the block, or of the process,
    however that ends: the system lets go, so nothing is left to clear away after SIGKILL. Processes
    that are forked meanwhile do not hold it.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._file: TextIO | None = None
        self._holder = 0

    def __enter__(self) -> Lock:
        return self

    def take(self, wait: float = 0.0) -> None:
        """Hold the lock from now on; taken already, it stays so. Makes the folder it is in.

        wait: seconds to wait for the process that holds it. Raises BusyError after that, OSError
        where the file cannot be written. On a disk that has no locks it warns and goes on.
        """
        if self._file is not None:
            return
        deadline = time.monotonic() + wait
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while self._file is None:
            file = self.path.open("a+")
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError) as error:
                file.seek(0)
                holder = file.read().strip() or "another process"
                file.close()
                if time.monotonic() >= deadline:
                    raise BusyError(
                        f"{self.path.parent}: {holder} is at work in this folder (its lock is"
                        f" {self.path})"
                    ) from error
                time.sleep(0.05)
                continue
            except OSError as error:
                warnings.warn(
                    f"{self.path} cannot be locked ({error.strerror}): a second process in this"
                    " folder would not be noticed",
                    stacklevel=2,
                )
            if self._is_at_its_path(file):
                self._file = file
            else:  # its holder removed it between opening and locking
                file.close()
        self._holder = os.getpid()
        self._file.truncate(0)
        self._file.write(f"process {self._holder} on {socket.gethostname()}\n")
        self._file.flush()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is None:
            return
        if self._holder == os.getpid():  # not a child that was forked meanwhile
            self.path.unlink(missing_ok=True)  # while it is held, so it is nobody else's
        self._file.close()
        self._file = None

    def _is_at_its_path(self, file: TextIO) -> bool:
        try:
            return os.path.samestat(os.fstat(file.fileno()), self.path.stat())
        except FileNotFoundError:
            return False
