"""Sharing between the threads of a process."""

from __future__ import annotations

import os
import threading


def fork_safe_lock() -> threading.Lock:
    """A lock that a forked process never finds locked forever, because a fork waits for the thread
    that holds it. It lives as long as the process, and must be held only briefly.
    """
    lock = threading.Lock()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release
        )
    return lock
