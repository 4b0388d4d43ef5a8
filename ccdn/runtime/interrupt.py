"""Ctrl-C also ends a wait that Python does not come back from: for other processes, a camera, a
disk.

Python notes a signal and calls its handler when the library that it is in returns, which a wait for
a process that never comes does not. A thread of its own is told of the signal at once, and ends the
process where the handler is not called in time.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

PATIENCE = 10.0  # seconds; no call of a library that ends is longer, but for steps of a training
# Seconds that the thread may learn of a signal after its handler was called.
LATE = 5.0

Handler = Callable[[int, FrameType | None], Any]


class _Watch:
    """The signals of the command that runs, and when a handler was last called."""

    def __init__(self) -> None:
        self.active = False
        self.patience = PATIENCE
        self.answered = -math.inf


_watch = _Watch()


def answering(handler: Handler) -> Handler:
    """A handler of a signal that counts as the answer to it."""

    def answer(signum: int, frame: FrameType | None) -> Any:
        _watch.answered = time.monotonic()
        return handler(signum, frame)

    return answer


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """For the block, so long may a call take in which no signal is answered."""
    before, _watch.patience = _watch.patience, seconds
    try:
        yield
    finally:
        _watch.patience = before


@contextmanager
def ended_by_signals(name: str) -> Iterator[None]:
    """For the block, a signal that is not answered ends the process, with a line of the command's
    `name` and the exit code of the signal.

    It does nothing where this is not the main thread, another block is active, or somebody else is
    told of signals already.
    """
    before = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if _watch.active or not main or not callable(before):
        yield
        return
    told, tell = socket.socketpair()
    tell.setblocking(False)
    other = signal.set_wakeup_fd(tell.fileno(), warn_on_full_buffer=False)
    if other != -1:
        signal.set_wakeup_fd(other)
        told.close()
        tell.close()
        yield
        return
    _watch.active = True
    thread = threading.Thread(target=_end_unanswered, args=(told, name), daemon=True)
    thread.start()
    signal.signal(signal.SIGINT, answering(before))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        signal.set_wakeup_fd(-1)
        _watch.active = False
        tell.close()  # which the thread reads as the end
        thread.join()
        told.close()


def _end_unanswered(told: socket.socket, name: str) -> None:
    signum, since = 0, 0.0
    while True:
        told.settimeout(0.1 if signum else None)
        try:
            numbers = told.recv(64)
        except TimeoutError:
            pass
        else:
            if not numbers:
                return
            if not signum:
                wanted = [number for number in numbers if number in (signal.SIGINT, signal.SIGTERM)]
                signum, since = (wanted or [0])[0], time.monotonic()
        if _watch.answered > since - LATE:
            signum = 0
        elif signum and time.monotonic() - since > _watch.patience:
            line = f"{name}: {signal.Signals(signum).name}: ended in a wait for something that"
            line += " does not come; the files that were finished are whole\n"
            os.write(2, line.encode())
            os._exit(128 + signum)
