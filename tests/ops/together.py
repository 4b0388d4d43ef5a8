"""Threads that start at once, for the tests of what they share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

SECONDS = 60.0  # after which a barrier that threads do not reach is an error


def together(work: Callable[[int], Any], count: int) -> list[Any]:
    """What `work` gives for 0, 1, ..., each in a thread of its own, all started at once."""
    start = threading.Barrier(count)

    def begin(number: int) -> Any:
        start.wait(SECONDS)
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(begin, range(count)))
