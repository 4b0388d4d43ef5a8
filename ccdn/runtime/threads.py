"""What several threads of a process need to share something."""

from __future__ import annotations

import os
import threading


def fork_safe_lock() -> threading.Lock:
    """A lock that a process which is forked while another thread holds it does not find locked for
    ever: a fork waits for it. For the life of the process; what it guards must be short.
    """
    lock = threading.Lock()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release
        )
    return lock
