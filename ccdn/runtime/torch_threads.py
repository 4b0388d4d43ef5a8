"""How many threads torch takes for a block, without a trace afterwards."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

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

    Where torch's own OpenMP can be asked, no other thread notices. Elsewhere torch sets the number
    for the process too: a thread whose first use of torch is in such a block would take it for its
    own, and gets the number that the process had before; one that first uses torch otherwise while
    the block lasts keeps it.
    """
    if count is None:
        yield
        return
    setters = _setters()
    with _process_wide(count) if setters is None else _local(count, *setters):
        yield


Setter = Callable[[int], int]


@contextmanager
def _local(count: int, openmp: Setter, mkl: Setter | None) -> Iterator[None]:
    import torch

    own = torch.get_num_threads()  # prepares a thread that has not used torch before
    openmp(count)
    before = 0 if mkl is None else mkl(count)
    try:
        yield
    finally:
        openmp(own)
        if mkl is not None:
            mkl(before)


@functools.cache
def _setters() -> tuple[Setter, Setter | None] | None:
    """What sets this thread's number in torch's OpenMP, and in its MKL, whose function returns the
    number that was set before; None where torch does not use the OpenMP that its library links.
    """
    import torch

    found = sorted((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*"))
    if not found:
        return None
    library = ctypes.CDLL(str(found[0]))
    openmp = getattr(library, "omp_set_num_threads", None)
    if openmp is None:
        return None
    own = torch.get_num_threads()
    openmp(own + 1)
    obeyed = torch.get_num_threads() == own + 1
    openmp(own)
    return (openmp, getattr(library, "MKL_Set_Num_Threads_Local", None)) if obeyed else None


@contextmanager
def _process_wide(count: int) -> Iterator[None]:
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
