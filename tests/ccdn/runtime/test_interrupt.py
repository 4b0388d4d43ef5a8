"""A signal ends the command even if Python cannot run its handler."""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from ccdn.cli.command import command
from ccdn.runtime import interrupt

# Waits where no signal handler of Python is called: for a lock that is never released. When glibc
# has noted the wait (2), a thread signals the process.
WAITS = """
import ctypes, os, signal, sys, threading, time
from ccdn.runtime import interrupt
from ccdn.cli.command import command
from ccdn.runtime.signals import StopRequest

libc, lock = ctypes.CDLL(None), (ctypes.c_int * 16)()
interrupt._watch.patience = 0.2
if "ignored" in sys.argv:
    signal.signal(signal.SIGINT, signal.SIG_IGN)

def send():
    while lock[0] != 2:
        time.sleep(0.001)
    os.kill(os.getpid(), getattr(signal, sys.argv[1]))

@command("ccdn.made_up")
def main():
    libc.pthread_mutex_lock(lock)
    threading.Thread(target=send, daemon=True).start()
    with StopRequest().listen():
        libc.pthread_mutex_lock(lock)

sys.exit(main())
"""


@pytest.mark.parametrize("arguments", [["SIGINT"], ["SIGTERM"], ["SIGTERM", "ignored"]])
def test_a_wait_that_python_does_not_come_back_from(arguments: list[str]) -> None:
    """The last one is in the background, where Ctrl-C is ignored."""
    if sys.platform != "linux" or os.confstr("CS_GNU_LIBC_VERSION") is None:
        pytest.skip("needs a lock of glibc")
    command, name = [sys.executable, "-c", WAITS, *arguments], arguments[0]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert process.returncode == 128 + getattr(signal, name)
    assert process.stdout == ""
    assert process.stderr == (
        f"ccdn.made_up: {name}: ended in a wait for something that does not come; the files that"
        " were finished are whole\n"
    )


class EndedError(Exception):
    """In place of the end of the process."""


@pytest.fixture
def woken(monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    """The socket that wakes the thread; it does not wait, and an end is an exception."""

    def end(code: int) -> None:
        raise EndedError(code)

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(os, "write", lambda *_: 0)
    monkeypatch.setattr(interrupt._watch, "patience", 0.0)
    monkeypatch.setattr(interrupt._watch, "answered", -math.inf)
    read, write = socket.socketpair()
    write.send(bytes([signal.SIGINT]))
    write.close()
    return read


def test_a_signal_that_is_answered_ends_nothing(woken: socket.socket) -> None:
    interrupt.answering(lambda *_: None)(signal.SIGINT, None)
    interrupt._end_unanswered(woken, "ccdn.made_up")


def test_one_that_is_not_ends_the_process(woken: socket.socket) -> None:
    with pytest.raises(EndedError, match="130"):
        interrupt._end_unanswered(woken, "ccdn.made_up")


def test_everything_is_as_before() -> None:
    """Also of a command that another one runs."""
    handler, threads = signal.getsignal(signal.SIGINT), threading.active_count()

    @command("ccdn.inner")
    def inner() -> int:
        assert threading.active_count() == threads + 1
        signal.raise_signal(signal.SIGINT)
        return 0

    @command("ccdn.outer")
    def outer() -> int:
        assert inner() == 130
        assert signal.getsignal(signal.SIGINT) is not handler
        return 4

    before = time.monotonic()
    assert outer() == 4
    assert signal.getsignal(signal.SIGINT) is handler
    assert threading.active_count() == threads
    assert interrupt._watch.answered >= before
    assert signal.set_wakeup_fd(-1) == -1


def test_code_that_receives_signals_keeps_them() -> None:
    """As asyncio."""
    mine, other = socket.socketpair()
    other.setblocking(False)
    signal.set_wakeup_fd(other.fileno())
    try:
        main = command("ccdn.made_up")(lambda: signal.raise_signal(signal.SIGINT) or 0)
        assert main() == 130
        assert mine.recv(8) == bytes([signal.SIGINT])
    finally:
        assert signal.set_wakeup_fd(-1) == other.fileno()
        mine.close()
        other.close()


def test_in_another_thread() -> None:
    """Python delivers signals only to the main thread."""
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(command("ccdn.made_up")(lambda: 0)()))
    thread.start()
    thread.join()
    assert found == [0]
