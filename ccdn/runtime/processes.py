"""The processes of one training, as torchrun starts them, and their communication.

This is plain torch.distributed: torch itself maintains DistributedDataParallel, autocast,
GradScaler and torchrun's elastic agent. accelerate or Lightning Fabric would add device selection
and a wrapped data loader. Here the order of the samples and the process group of COCS must be
exact, so we would have to work around both, at the cost of a dependency.

torch is imported where several processes need it: a process that is alone may do without.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.distributed import ProcessGroup

Value = TypeVar("Value")


@dataclass(frozen=True)
class Processes:
    """This process among those of the run. group is None if it is alone."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    group: ProcessGroup | None = None

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which writes files and logs."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """The mean of a tensor over the processes; the same on each of them."""
        if self.group is None:
            return values
        import torch.distributed as dist

        values = values.clone()
        dist.all_reduce(values, group=self.group)
        return values / self.size

    def from_first(self, value: Value) -> Value:
        """The first process's value, on each of them."""
        if self.group is None:
            return value
        import torch.distributed as dist

        held = [value]
        dist.broadcast_object_list(held, src=0, group=self.group)
        return held[0]

    def gather(self, value: Value) -> list[Value]:
        """Every process's value, in the order of their ranks, on each of them."""
        if self.group is None:
            return [value]
        import torch.distributed as dist

        held: list[Any] = [None] * self.size
        dist.all_gather_object(held, value, group=self.group)
        return held

    def same_buffers(self, model: nn.Module) -> None:
        """Give the first process's buffers, such as running statistics, to all."""
        if self.group is not None:
            import torch.distributed as dist

            for buffer in model.buffers():
                dist.broadcast(buffer, src=0, group=self.group)

    def share(self, count: int) -> list[int]:
        """This process's share of the indices 0..count-1 to evaluate, equally many on each process.

        If count is not a multiple, a few indices are repeated; `ccdn.inference.distributed` keeps
        each once.
        """
        rounds = -(-count // self.size)
        return [(self.rank + i * self.size) % count for i in range(rounds)]


ALONE = Processes()


def launched() -> bool:
    """Whether torchrun, or a launcher that sets the same variables, started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def run_id() -> str | None:
    """torchrun's --rdzv-id, which outlives its agents; None if torchrun did not start this."""
    return os.environ.get("TORCHELASTIC_RUN_ID")


def agent_age() -> float:
    """Seconds since torchrun's agent on this machine, the parent of this process, was started.

    The agent restarts its processes whenever one of them dies and whenever agents come or go, but
    counts only the former. If the system does not report an age, the count shows whether the agent
    is older than its processes, and the age is infinity or zero.
    """
    try:
        with open(f"/proc/{os.getppid()}/stat", "rb") as file:
            ticks = int(file.read().rpartition(b")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):  # the last: no such clock
        return math.inf if _restarts() else 0.0


def _restarts() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def _store_is_older() -> bool:
    """Whether the processes meet in a store that earlier processes have used.

    A single agent keeps its store when it restarts its processes (torch 2.13), and a process that
    is early reads the address of a dead process there. Several agents do not count restarts alike,
    so a prefix with the count would separate them.
    """
    of_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return of_agent and os.environ.get("GROUP_WORLD_SIZE") == "1" and _restarts() > 0


@contextmanager
def processes(device: str = "auto", timeout: timedelta | None = None) -> Iterator[Processes]:
    """For the block, join the processes that torchrun started; ALONE if it started none.

    device: train.device; nccl where each process has a GPU, else gloo.
    """
    if not launched():
        yield ALONE
        return
    import torch
    import torch.distributed as dist

    local = int(os.environ.get("LOCAL_RANK", "0"))
    cuda = device != "cpu" and torch.cuda.is_available()
    if cuda and local < torch.cuda.device_count():  # if there are too few, `pick_device` reports it
        torch.cuda.set_device(local)
    backend = "nccl" if cuda else "gloo"
    if _store_is_older():
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(host, port, size, is_master=False)
        fresh = dist.PrefixStore(f"restart {_restarts()}", store)
        dist.init_process_group(backend, timeout=timeout, store=fresh, rank=rank, world_size=size)
    else:
        dist.init_process_group(backend, timeout=timeout)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), local, dist.group.WORLD)
    finally:
        dist.destroy_process_group()
