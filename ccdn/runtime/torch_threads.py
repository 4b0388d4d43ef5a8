"""How many threads torch takes for a block, without a trace afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ccdn.runtime.threads import fork_safe_lock

# Faces that one thread reads about as fast as several. On a machine that is busy several wait for
# each other: one face then took 40 times as long with two threads as with one.
SMALL_BATCH = 16

_lock = fork_safe_lock()
_inside = 0
_usual = 1


def threads_for(faces: int, wanted: int | None = None) -> int | None:
    """Threads for a batch of faces: those wanted, else one for a small batch, None for torch's own
    number.
    """
    return wanted or (1 if faces <= SMALL_BATCH else None)


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """For the block, torch's number of threads in this thread; None changes nothing.

    A thread whose first use of torch is in such a block would take the block's number for its own
    and for the process's; it gets the number that the process had before.
    """
    if count is None:
        yield
        return
    import torch

    global _inside, _usual
    with _lock:
        own = torch.get_num_threads()
        if _inside == 0:
            _usual = own
        elif own == count:
            own = _usual
        _inside += 1
        _set(count)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            _set(own)


def _set(count: int) -> None:
    import torch

    if torch.get_num_threads() != count:  # it empties caches
        torch.set_num_threads(count)
