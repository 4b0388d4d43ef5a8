"""Lets Ctrl-C end a wait that never returns to Python: for other processes, a camera, a disk.

Python notes a signal and calls its handler when the current library call returns, but a wait for a
process that never comes does not return. So a separate thread learns of the signal immediately, and
ends the process if the handler is not called in time.
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

PATIENCE = 10.0  # seconds; no library call that returns takes longer, except training steps
# Seconds by which the thread may learn of a signal later than its handler is called.
LATE = 5.0

Handler = Callable[[int, FrameType | None], Any]


class _Watch:
    """The signals of the running command, and when a handler was last called."""

    def __init__(self) -> None:
        self.active = False
        self.patience = PATIENCE
        self.answered = -math.inf


_watch = _Watch()


def answering(handler: Handler) -> Handler:
    """A signal handler that counts as an answer to the signal."""

    def answer(signum: int, frame: FrameType | None) -> Any:
        _watch.answered = time.monotonic()
        return handler(signum, frame)

    return answer


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """For the block, the longest call during which a signal may stay unanswered."""
    before, _watch.patience = _watch.patience, seconds
    try:
        yield
    finally:
        _watch.patience = before


@contextmanager
def ended_by_signals(name: str) -> Iterator[None]:
    """For the block, an unanswered signal ends the process, with a line that has the command's
    `name` and with the exit code of the signal.

    It does nothing outside the main thread, while another block is active, or if other code already
    receives the signals.
    """
    before = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if _watch.active or not main:
        yield
        return
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    other = signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    if other != -1:
        signal.set_wakeup_fd(other)
        woken.close()
        wake.close()
        yield
        return
    _watch.active = True
    thread = threading.Thread(target=_end_unanswered, args=(woken, name), daemon=True)
    thread.start()
    if callable(before):  # otherwise Ctrl-C is ignored, as in the background of a shell script
        signal.signal(signal.SIGINT, answering(before))
    try:
        yield
    finally:
        if callable(before):
            signal.signal(signal.SIGINT, before)
        signal.set_wakeup_fd(-1)
        _watch.active = False
        wake.close()  # which tells the thread to end
        thread.join()
        woken.close()


def _end_unanswered(woken: socket.socket, name: str) -> None:
    signum, since = 0, 0.0
    while True:
        woken.settimeout(0.1 if signum else None)
        try:
            numbers = woken.recv(64)
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
