"""SIGINT and SIGTERM as a request to stop after the current step."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from ccdn.runtime.interrupt import answering
from ccdn.runtime.processes import Processes

if TYPE_CHECKING:
    import torch

# Seconds in which further signals count as the same request: a batch system signals every process
# of a job, and torchrun passes signals on to processes that already got them.
SAME_REQUEST = 3.0
# Seconds in which processes that were asked to stop may do another step, to stop together.
TOGETHER = 10.0


@contextmanager
def handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[dict[int, Any]]:
    """For the block, SIGINT and SIGTERM call `handler`; yields the previous handlers."""
    previous: dict[int, Any] = {}
    try:
        for which in (signal.SIGINT, signal.SIGTERM):
            previous[which] = signal.signal(which, answering(handler))
        yield previous
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


class StopRequest:
    """Whether this process was asked to stop, and by which signal; 0 if it was not."""

    def __init__(self) -> None:
        self.signum = 0
        self._first = 0.0

    @contextmanager
    def listen(self) -> Iterator[None]:
        """For the block, a signal becomes a request to stop, and so do those that follow. But a
        Ctrl-C more than SAME_REQUEST after the first signal does what it did before.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(signum: int, frame: FrameType | None) -> None:
            now = time.monotonic()
            if not self.signum:
                self.signum, self._first = signum, now
            elif signum == signal.SIGINT and now - self._first >= SAME_REQUEST:
                signal.signal(signum, previous[signal.SIGINT])
                signal.raise_signal(signum)

        with handling(note) as previous:
            yield

    def ends_a_wait(self, processes: Processes) -> bool:
        """Whether to stop waiting for something that concerns only this process.

        With several processes it first keeps waiting, because the others need it to continue: they
        agree to stop after the step.
        """
        if not self.signum:
            return False
        return processes.group is None or time.monotonic() - self._first >= TOGETHER

    def agreed(self, processes: Processes, device: torch.device) -> bool:
        """Whether one of the processes was asked; the same answer on all of them."""
        if processes.group is None:
            return bool(self.signum)
        import torch

        return float(processes.mean(torch.tensor(float(bool(self.signum)), device=device))) > 0
