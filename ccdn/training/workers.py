"""Items prepared in advance by a thread, or by n processes that each make every n-th item and send
it through their own pipe.

A worker thread of torch's DataLoader passes tensors through shared memory. If /dev/shm is full
(docker gives a container 64 MB), that thread ends, the worker lives on, and the training waits
forever. Here a worker is sequential and uses no shared memory: either an item arrives whole, or the
worker's end of the pipe closes, for whatever reason, and that is an error immediately.
"""

from __future__ import annotations

import multiprocessing
import pickle
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import Any

import torch

AHEAD = 4  # items made in advance, by each thread or process
LOOK = 0.1  # seconds between two looks at whether to stop, while there is nothing to give
CLOSING = 5.0  # seconds that threads and processes have to end by themselves

# Makes the items number i, i + n, i + 2n, ... of all for the arguments i and n.
Make = Callable[[int, int], Iterator[Any]]
Stop = Callable[[], bool]


class WorkerError(RuntimeError):
    """A process has ended before its last item; one line with cause and cure."""


def by_thread(make: Make, count: int, stop: Stop) -> Generator[Any, None, None]:
    """The first `count` items, made by a thread of this process; fewer once `stop` says so.

    Raises what making an item raises.
    """
    stopped = threading.Event()
    ahead = _Ahead(make(0, 1), stopped)
    try:
        yield from _in_turn([ahead], count, stop)
    finally:
        stopped.set()
        ahead.join(time.monotonic() + CLOSING)


def by_processes(make: Make, count: int, workers: int, stop: Stop) -> Generator[Any, None, None]:
    """The same items in the same order, made by processes.

    Items are pickled, and so is `make` where processes are not forked. Raises WorkerError where a
    process has ended before its last item, RuntimeError with its traceback where it has raised.
    """
    context: Any = multiprocessing.get_context()
    workers = min(workers, count)
    stopped = threading.Event()
    team: list[_Worker] = []
    try:
        for number in range(workers):
            if stop():
                return
            team.append(_Worker(context, make, number, workers, team))
        # Threads come last: what is forked should not find their locks taken.
        sources = [_Ahead(worker.received(stopped), stopped) for worker in team]
        yield from _in_turn(sources, count, stop)
    finally:
        stopped.set()
        deadline = time.monotonic() + CLOSING
        for worker in team:
            worker.end(deadline)


def _in_turn(sources: Sequence[_Ahead], count: int, stop: Stop) -> Generator[Any, None, None]:
    for number in range(count):
        item = sources[number % len(sources)].take(stop)
        if item is None:
            return
        yield item


class _Ahead:
    """What an iterator gives, got in advance by a thread, until `stopped`."""

    def __init__(self, source: Iterator[Any], stopped: threading.Event) -> None:
        self._ready: queue.Queue[Any] = queue.Queue(AHEAD)
        self._stopped = stopped
        self._source = source
        # A daemon: what hangs in a disk or a library must not keep the process from ending.
        self._thread = threading.Thread(target=self._fill, name="ccdn-batches", daemon=True)
        self._thread.start()

    def take(self, stop: Stop) -> Any:
        """The next item; None once `stop` says so. Raises what getting it raised."""
        while True:
            try:
                item = self._ready.get(timeout=LOOK)
            except queue.Empty:
                if stop():
                    return None
                continue
            if isinstance(item, BaseException):
                raise item
            return item

    def join(self, deadline: float) -> None:
        """Wait for the thread to end, but not longer."""
        self._thread.join(max(0.0, deadline - time.monotonic()))

    def _fill(self) -> None:
        try:
            for item in self._source:
                if not self._put(item):
                    return
        except BaseException as error:
            self._put(error)

    def _put(self, item: Any) -> bool:
        while not self._stopped.is_set():
            try:
                self._ready.put(item, timeout=LOOK)
                return True
            except queue.Full:
                continue
        return False


class _Worker:
    """A process that makes items, and this process's end of its pipe."""

    def __init__(
        self, context: Any, make: Make, number: int, workers: int, before: Sequence[_Worker]
    ) -> None:
        self.pipe, theirs = context.Pipe()
        # A forked process has copies of all ends, of which one that stays open hides that the
        # other side is gone.
        forked = context.get_start_method() == "fork"
        inherited = [self.pipe, *(worker.pipe for worker in before)] if forked else []
        self._to_send = None if forked else make
        self.process: BaseProcess = context.Process(
            target=_work,
            args=(theirs, make if forked else None, number, workers, inherited),
            name=f"ccdn-batches-{number}",
            daemon=True,
        )
        self.process.start()
        theirs.close()
        # When Python exits, multiprocessing would only request an end, and then wait forever.
        self._kill = Finalize(self, _kill, (self.process,), exitpriority=0)

    def received(self, stopped: threading.Event) -> Iterator[Any]:
        """The items as they arrive, until `stopped`."""
        try:
            if self._to_send is not None:
                # Not with the process's other arguments: to write those multiprocessing waits for
                # ever where the process has ended before it read them.
                self.pipe.send_bytes(pickle.dumps(self._to_send))
            while True:
                while not self.pipe.poll(LOOK):
                    if stopped.is_set():
                        return
                item = pickle.loads(self.pipe.recv_bytes())
                if isinstance(item, _Raised):
                    raise RuntimeError(f"in a process that prepares batches:\n{item.text}")
                yield item
        except (EOFError, OSError) as error:
            if not stopped.is_set():
                self.process.join(CLOSING)
                raise WorkerError(_why(self.process.exitcode)) from error

    def end(self, deadline: float) -> None:
        """End the process: it ends by itself once its reader has gone, or else it is killed."""
        self.pipe.close()
        self.process.join(max(0.0, deadline - time.monotonic()))
        self._kill()
        self.process.join(CLOSING)


class _Raised:
    """What a worker sends of an exception."""

    def __init__(self, error: BaseException) -> None:
        self.text = "".join(traceback.format_exception(error)).rstrip()


def _why(code: int | None) -> str:
    """Why a worker may have ended with an exit code, and what would help."""
    ended = "closed its pipe" if code is None else f"ended with exit code {code}"
    cure = "train.workers=0 prepares batches without such processes"
    if code is not None and code < 0:
        known = {number.value for number in signal.Signals}
        name = signal.Signals(-code).name if -code in known else f"signal {-code}"
        ended = f"was ended by {name}"
        if name == "SIGKILL":
            cause = "the system does that when memory runs out; fewer train.workers need less"
            cure = f"{cause}, and {cure}"
        elif name == "SIGBUS":
            cause = "a disk that memory is mapped from, such as data.cache_dir, is full or gone"
            cure = f"{cause}; {cure}"
    return f"a process that prepares batches {ended}: {cure}"


def _kill(process: BaseProcess) -> None:
    process.kill()


def _work(
    pipe: Connection, make: Make | None, number: int, workers: int, inherited: Sequence[Connection]
) -> None:
    """The worker's loop: to the end of the items, or until the reader has gone."""
    import cv2

    # Ctrl-C and job schedulers signal the whole process group; the trainer alone answers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)
    for other in inherited:
        other.close()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    try:
        for content in _pickled(pipe.recv_bytes() if make is None else make, number, workers):
            pipe.send_bytes(content)
        pipe.recv_bytes()  # nothing comes: until the trainer closes its end
    except (ConnectionError, EOFError):  # it has, or has ended
        pass


def _pickled(make: Make | bytes, number: int, workers: int) -> Iterator[bytes]:
    """The items; an exception is the last."""
    try:
        found: Make = pickle.loads(make) if isinstance(make, bytes) else make
        for item in found(number, workers):
            yield pickle.dumps(item, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        yield pickle.dumps(_Raised(error))
