"""How long a device should take for a call: a prediction, which no device has confirmed.

A call is its launches (gpu_launches.py), one after another. A launch costs a fixed time, and then
the longest of

    the bytes that it moves to and from device memory, over its bandwidth;
    the bytes that its blocks load, over the bandwidth of the second-level cache;
    its waves of blocks, each as long as one block.

A block takes as long as its instructions say (turns.py): once through the kernel, and the turns of
the main loop. A turn is the longest of what its warps issue together and of what one warp waits
for: its own clocks, shared memory, barriers, and the part of its round trips to memory that nothing
covers. gpu_work.py knows from the algorithm how many turns there are and which tensors are moved.

Everything else is one of the constants below. They come from the H200's data sheet or from
microbenchmarks of its generation. A prediction may be off by half of itself, either way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from gpu_launches import Call, Launch, inputs
from gpu_work import ITERATIONS, WORK, Sizes
from static_record import MULTIPROCESSORS, Static
from turns import WAIT, Turn

from ccdn_ops.ops.operator import OPERATORS
from ccdn_ops.work import Call as ArgumentsOfWork

SMALL = 1 << 20  # bytes of a tensor that all blocks share and of which few wait for memory


@dataclass(frozen=True)
class Machine:
    """Seconds, bytes, clocks and rates of a device and its host.

    Args:
        attained: share of the data sheet's bandwidth that a copy reaches.
        cache: bytes that are still in the second-level cache when the next launch asks for them.
        mma, wgmma: share of the tensor cores' rate that the two kinds of instructions reach.
        launch, overlapping: of a kernel behind another one on a stream or in a graph, its start and
            its end; and of one that may begin before the other one has ended.
        operation: of PyTorch on the host, for every operation that it launches.
        call: of one of our calls on the host, each pass.
    """

    name: str = "H200"
    arch: str = "90"
    multiprocessors: int = 132
    clock: float = 1.755e9
    bandwidth: float = 4.8e12
    attained: float = 0.875
    cache: float = 40e6
    cache_bandwidth: float = 5.5e12
    memory_latency: int = 800
    cache_latency: int = 270
    barrier: int = 30
    cluster_barrier: int = 350
    fence: int = 400
    arrival: int = 270
    multiply_adds: float = 533.0  # of 16 bits, a clock of a quarter of a multiprocessor
    mma: float = 0.62
    wgmma: float = 0.85
    float64: float = 2.0  # clocks of a warp's instruction
    launch: float = 2.2e-6
    overlapping: float = 1.2e-6
    operation: float = 5.0e-6
    call: float = 32e-6
    peaks: tuple[tuple[str, float], ...] = (
        ("bfloat16", 989e12),
        ("tf32", 494e12),
        ("float32", 67e12),
    )
    product: float = 0.7  # share of the peak that a library's product reaches

    def peak(self, kind: str) -> float:
        return dict(self.peaks)[kind]


H200 = Machine()


@dataclass(frozen=True)
class Part:
    """A launch's share of a call. seconds: without launching; bound: what takes the longest."""

    kernel: str
    seconds: float
    launching: float
    bound: str
    arithmetic: str


@dataclass
class Prediction:
    """Of a call, in seconds on the device, one launch after another."""

    call: Call
    machine: Machine
    parts: list[Part] = field(default_factory=list)

    @property
    def device(self) -> float:
        return sum(part.seconds + part.launching for part in self.parts)

    @property
    def launching(self) -> float:
        return sum(part.launching for part in self.parts)

    @property
    def bound(self) -> Part:
        """The launch that takes the longest."""
        return max(self.parts, key=lambda part: part.seconds)


class Cache:
    """Which tensors the second-level cache still holds: the latest that fit into it."""

    def __init__(self, size: float) -> None:
        self.size = size
        self.held: dict[str, int] = {}

    def touch(self, tensor: str, count: int) -> bool:
        """Whether the tensor was there; it is the latest now."""
        there = self.held.pop(tensor, 0) >= count
        self.held[tensor] = count
        while sum(self.held.values()) > self.size:
            self.held.pop(next(iter(self.held)))
        return there and tensor in self.held


def predict(static: Static, calls: Sequence[Call], machine: Machine = H200) -> list[Prediction]:
    """Of calls one after another, the first one with cold caches.

    Raises KeyError where WORK lacks a kernel.
    """
    cache = Cache(machine.cache)
    found = []
    for call in calls:
        launches = [Launch(*one) for one in static.launches[str(call)]]
        sizes = Sizes(call)
        parts = [_part(static, sizes, launch, cache, machine) for launch in launches]
        found.append(Prediction(call, machine, parts))
    return found


def _part(static: Static, s: Sizes, launch: Launch, cache: Cache, machine: Machine) -> Part:
    name = launch.kernel.split()[0]
    if name not in WORK:
        raise KeyError(f"benchmarks/gpu_work.py: WORK says nothing of the kernel {name}")
    work = WORK[name](s, launch)
    figures = static.kernels[machine.arch][launch.kernel]
    shared = figures.shared + launch.bytes
    most = MULTIPROCESSORS[machine.arch].resident(figures.registers, launch.threads, shared)
    # Blocks that a multiprocessor has at a time, and waves of them.
    together = min(most, -(-launch.blocks // machine.multiprocessors))
    at_once = machine.multiprocessors // launch.cluster * launch.cluster * most
    waves = -(-launch.blocks // at_once)
    warps = max(1.0, together * launch.threads / 128)  # of each scheduler

    read = sum(s.bytes(tensor) for tensor in work.reads)
    moved, colds = 0, [False]
    for tensor in dict.fromkeys(work.reads):
        there = cache.touch(tensor, s.bytes(tensor))
        moved += 0 if there else s.bytes(tensor) * work.reads.count(tensor)
        colds.append(not there and s.bytes(tensor) > SMALL)
    for tensor in dict.fromkeys(work.writes):
        cache.touch(tensor, s.bytes(tensor))
        moved += s.bytes(tensor) * work.writes.count(tensor)
    # The main loop waits for the first tensor, and the block at least once for any other.
    latency = machine.memory_latency if colds[1:2] == [True] else machine.cache_latency

    turns = work.turns
    a_turn = figures.loop.wide_bytes * launch.threads
    if turns is None:
        turns = read / (launch.blocks * a_turn) if a_turn else 0.0
    turn, why = _clocks(figures.loop, warps, latency, launch.cluster, machine)
    once, _ = _clocks(figures.once, warps, latency, launch.cluster, machine)
    first = max(once - turn, 0.0)
    first += (machine.memory_latency - latency) * any(colds)
    block = work.rounds * (first + turns * turn)
    times = {
        why if turns * turn > first else "latency": waves * block / machine.clock,
        "memory": moved / (machine.bandwidth * machine.attained),
        "cache": launch.blocks * turns * a_turn / machine.cache_bandwidth,
    }
    bound = max(times, key=lambda key: times[key])
    times_round = f"{waves} x {work.rounds}" if work.rounds > 1 else f"{waves}"
    arithmetic = f"{times_round} x ({first:.0f} + {turns:.3g} x {turn:.0f}) clocks"
    if bound == "memory":
        arithmetic = f"{moved / 1e6:.3g} MB"
    elif bound == "cache":
        arithmetic = f"{launch.blocks * turns * a_turn / 1e6:.3g} MB from the cache"
    launching = machine.overlapping if launch.overlaps else machine.launch
    return Part(launch.kernel, times[bound], launching, bound, arithmetic)


def _clocks(
    turn: Turn, warps: float, latency: int, cluster: int, machine: Machine
) -> tuple[float, str]:
    """Of a turn that so many warps of a scheduler take at a time, and what bounds it."""
    barrier = machine.cluster_barrier if cluster > 1 else machine.barrier
    waited = turn.clocks + WAIT * turn.waits + barrier * turn.barriers
    waited += machine.fence * turn.fences + machine.arrival * turn.arrivals
    alone = waited + max(0, turn.trips * latency - turn.covered)
    share = machine.wgmma if turn.tensor > 4096 * max(turn.products, 1) else machine.mma
    together = {
        "instructions": warps * turn.instructions,
        "float64": warps * turn.float64 * machine.float64,
        "tensor cores": warps * turn.tensor / (machine.multiply_adds * share),
        "latency": float(alone),
    }
    bound = max(together, key=lambda key: together[key])
    return together[bound], bound


def floors(call: Call, machine: Machine = H200) -> tuple[float, float]:
    """Seconds of a call's bytes and of its operations at the data sheet's rates, this pass.

    Products of float32 are made of three terms of TF32.
    """
    x, *_ = inputs(call.operator, call.shape, getattr(torch, call.dtype))
    arguments = ArgumentsOfWork(ITERATIONS, Sizes(call).excitations)
    work = OPERATORS[call.operator].work(x, arguments)
    rate = machine.peak("bfloat16") if call.dtype == "bfloat16" else machine.peak("tf32") / 3
    which = int(call.backward)
    return work.bytes[which] / machine.bandwidth, work.operations[which] / rate
