"""SIGINT and SIGTERM as a wish to stop after the current step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from ccdn.training.processes import Processes


class StopWish:
    """Whether this process was asked to stop, and by which signal; 0 where it was not."""

    def __init__(self) -> None:
        self.signum = 0

    @contextmanager
    def listen(self) -> Iterator[None]:
        """For the block, a signal becomes a wish; a second one does what it did before."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {which: signal.getsignal(which) for which in (signal.SIGINT, signal.SIGTERM)}

        def restore() -> None:
            for which, handler in previous.items():
                signal.signal(which, handler)

        def wish(signum: int, frame: FrameType | None) -> None:
            self.signum = signum
            restore()

        for which in previous:
            signal.signal(which, wish)
        try:
            yield
        finally:
            restore()

    def agreed(self, processes: Processes, device: torch.device) -> bool:
        """Whether one of the processes was asked; the same answer on all of them."""
        if processes.group is None:
            return bool(self.signum)
        return float(processes.mean(torch.tensor(float(bool(self.signum)), device=device))) > 0
