"""Silences the chatter of libraries."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from ccdn.runtime.threads import fork_safe_lock

_lock = fork_safe_lock()
_inside = 0
_caught: warnings.catch_warnings[None] | None = None


@contextmanager
def no_warnings() -> Iterator[None]:
    """No warnings in the block, in any thread.

    `warnings.catch_warnings` restores the state that it found, so two threads that use it together
    may leave the process silent forever. Here the first thread to enter silences the process and
    the last one to leave ends the silence.
    """
    if getattr(sys.flags, "context_aware_warnings", False):  # Python 3.14: each thread has its own
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
        return
    _enter()
    try:
        yield
    finally:
        _leave()


def _enter() -> None:
    global _inside, _caught
    with _lock:
        if _inside == 0:
            _caught = warnings.catch_warnings()
            _caught.__enter__()
            warnings.simplefilter("ignore")
        _inside += 1


def _leave() -> None:
    global _inside
    with _lock:
        _inside = max(0, _inside - 1)  # a child forked inside the block is outside it
        if _inside == 0:
            _end()


def _end() -> None:
    global _inside, _caught
    _inside = 0
    if _caught is not None:
        _caught.__exit__(None, None, None)
        _caught = None


if hasattr(os, "register_at_fork"):  # in a child, no other thread will ever leave
    os.register_at_fork(after_in_child=_end)
