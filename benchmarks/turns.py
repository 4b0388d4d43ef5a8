"""What a kernel's machine instructions say about its speed.

A kernel's main loop is the one that does its arithmetic, with the loads or barriers that feed it. A
turn is one pass through it. Of the paths that a turn may take, we follow the one that multiplies
and moves the most, in the fewest instructions: if a kernel has a path with wide loads and one with
single elements, that is the wide one. In a loop without products that moves packs of 16 bytes, only
these count. The path that does as much in the most instructions is `narrow`.

A round trip to memory is counted where a warp waits for a load that it has not waited for yet:
loads that are under way together are one trip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

from cubin import Code
from sass import (
    BARRIERS,
    BULK,
    FENCES,
    FLOAT64,
    FUSED,
    NO_SCOREBOARD,
    STORES,
    Instruction,
    loops,
    main_loop,
    parse,
    within,
)

WAIT = 30  # clocks of an access of shared memory, of a shuffle, of a root: about
STAGES = 6  # turns before the one that is counted, more than any pipeline of copies is long
LONGEST_TRIP = 1000  # clocks: what covers more of a trip than this covers no other one


@dataclass(frozen=True)
class Turn:
    """One path through a turn of a loop, or once through a kernel that has none.

    Args:
        instructions: of a warp.
        clocks: for which the instructions keep a warp busy, without its waits.
        waits: for shared memory, other lanes and slow arithmetic.
        trips: round trips to memory, one after another.
        covered: clocks between issuing the loads of a trip and waiting for them, summed over the
            trips, as far as `clocks` and `waits` tell; at most LONGEST_TRIP for each. Copies of a
            pipeline are issued several turns ahead.
        loads: bytes and count of the loads and asynchronous copies from global memory.
        products: instructions of tensor cores.
        tensor: their multiply-adds a warp, those of TF32 counted twice: they take twice as long.
        fused: multiply-adds in the ordinary cores.
        float64: instructions in float64.
        barriers: of a block or a cluster.
        arrivals: waits for what other blocks send into shared memory.
        fences: memory barriers.
        inner: loops inside the turn, of which one turn each is counted.
    """

    instructions: int = 0
    clocks: int = 0
    waits: int = 0
    trips: int = 0
    covered: int = 0
    loads: tuple[tuple[int, int], ...] = ()
    products: int = 0
    tensor: int = 0
    fused: int = 0
    float64: int = 0
    barriers: int = 0
    arrivals: int = 0
    fences: int = 0
    inner: int = 0

    @property
    def bytes(self) -> int:
        return sum(width * count for width, count in self.loads)

    @property
    def wide_bytes(self) -> int:
        """Bytes of the widest loads: what a turn streams, without what every turn loads again."""
        return self.loads[0][0] * self.loads[0][1] if self.loads else 0


@dataclass(frozen=True)
class Figures:
    """What is recorded of a kernel: its resources, the whole kernel, and its main loop."""

    registers: int
    threads: int
    shared: int
    stack: int
    local: int  # loads and stores of local memory: spills and indexed arrays
    loads: tuple[tuple[int, int], ...]  # width in bytes, count
    stores: tuple[tuple[int, int], ...]
    loop: Turn
    narrow: Turn
    once: Turn  # through the kernel and once through the loop, on the path that stores the most

    def record(self) -> list[object]:
        return [
            self.registers,
            self.threads,
            self.shared,
            self.stack,
            self.local,
            [list(pair) for pair in self.loads],
            [list(pair) for pair in self.stores],
            _flat(self.loop),
            _flat(self.narrow),
            _flat(self.once),
        ]

    @classmethod
    def of_record(cls, record: Sequence[object]) -> Figures:
        *numbers, loads, stores, loop, narrow, once = record
        turns = _turn(loop), _turn(narrow), _turn(once)
        return cls(*numbers, _pairs(loads), _pairs(stores), *turns)  # type: ignore[arg-type]


TURN_FIELDS = [f.name for f in fields(Turn)]


def _flat(turn: Turn) -> list[object]:
    values = [getattr(turn, name) for name in TURN_FIELDS]
    return [[list(p) for p in v] if isinstance(v, tuple) else v for v in values]


def _turn(values: object) -> Turn:
    assert isinstance(values, list)
    return Turn(*(_pairs(v) if isinstance(v, list) else v for v in values))


def _pairs(values: object) -> tuple[tuple[int, int], ...]:
    assert isinstance(values, list)
    return tuple((int(width), int(count)) for width, count in values)


def figures(code: Code) -> Figures:
    """Everything that is recorded of one kernel."""
    program = parse(code)
    begin, end = main_loop(program)
    loop, whole = (begin, end), (0, len(program) - 1)
    streams = not any(i.is_product for i in program[begin : end + 1]) and any(
        i.width == 16 and (i.is_load or i.name in STORES) for i in program[begin : end + 1]
    )

    def done(at: int) -> tuple[int, int, int, int]:
        """Products, multiply-adds, bytes, barriers."""
        i = program[at]
        moved = i.width if i.is_load or i.name in STORES else 0
        return int(i.is_product), int(i.name in FUSED), moved, int(i.waits_for_others)

    def few(at: int) -> tuple[int, ...]:
        products, fused, moved, waits = done(at)
        return products, fused, 0 if streams and moved < 16 else moved, waits, -1

    def through(at: int) -> tuple[int, ...]:
        i = program[at]
        return int(at == end), i.width if i.name in STORES else 0, int(i.waits_for_others), -1

    return Figures(
        code.registers,
        code.threads,
        code.shared,
        code.stack,
        sum(i.name in ("LDL", "STL") for i in program),
        _widths(i for i in program if i.is_load),
        _widths(i for i in program if i.name in STORES),
        _turn_of(program, loop, _way(program, loop, few)),
        _turn_of(program, loop, _way(program, loop, lambda at: (*done(at), 1))),
        _turn_of(program, whole, _way(program, whole, through)),
    )


def _widths(instructions: Iterator[Instruction]) -> tuple[tuple[int, int], ...]:
    counts: dict[int, int] = {}
    for instruction in instructions:
        counts[instruction.width] = counts.get(instruction.width, 0) + 1
    return tuple(sorted(counts.items(), reverse=True))


def _turn_of(program: Sequence[Instruction], loop: tuple[int, int], indices: Sequence[int]) -> Turn:
    way = [program[at] for at in indices]
    inner = sum(within(other, loop) for other in loops(program) if other != loop)
    waits, trips, covered, arrivals = _waiting(way)
    return Turn(
        instructions=len(way),
        clocks=sum(max(1, i.stall) for i in way),
        waits=waits,
        trips=trips,
        covered=covered,
        loads=_widths(i for i in way if i.is_load),
        products=sum(i.is_product for i in way),
        tensor=sum(i.multiply_adds for i in way),
        fused=sum(i.name in FUSED for i in way),
        float64=sum(i.name in FLOAT64 for i in way),
        barriers=sum(i.name in BARRIERS for i in way),
        arrivals=arrivals,
        fences=sum(i.name in FENCES for i in way),
        inner=inner,
    )


def _way(
    program: Sequence[Instruction],
    loop: tuple[int, int],
    worth: Callable[[int], tuple[int, ...]],
) -> list[int]:
    """Indices of the path through a loop, or the whole kernel, whose instructions are worth most.

    Jumps back are not taken, so an inner loop is passed once. `worth` of an index is a tuple; the
    first entry of the sum decides, then the next.
    """
    begin, end = loop
    whole = begin == 0 and end == len(program) - 1
    best: dict[int, tuple[int, ...]] = {} if whole else {end: worth(end)}
    follows: dict[int, int] = {}
    for at in range(end if whole else end - 1, begin - 1, -1):
        instruction = program[at]
        if whole and instruction.name == "EXIT" and not instruction.predicate:
            best[at] = worth(at)
            continue
        ways = [] if instruction.ends or at == end else [at + 1]
        if instruction.target is not None:
            if at < instruction.target <= end:
                ways.append(instruction.target)
            elif instruction.target == begin and not whole:
                best[at] = worth(at)  # the next turn may begin here as well
        for way in ways:
            if way not in best:
                continue
            score = tuple(a + b for a, b in zip(best[way], worth(at), strict=True))
            if at not in best or score > best[at]:
                best[at], follows[at] = score, way
    found = [begin]
    while found[-1] in follows:
        found.append(follows[found[-1]])
    return found


def _waiting(way: Sequence[Instruction]) -> tuple[int, int, int, int]:
    """waits, trips, covered and arrivals of a turn, with the loads of STAGES others under way."""
    asked: dict[int, int] = {}  # by scoreboard, when a load from global memory was issued
    near: set[int] = set()  # scoreboards of anything else
    copies: int | None = None  # when the first asynchronous copy of a group was issued
    groups: list[int] = []  # of copies under way, when each was issued
    clock = waits = trips = covered = arrivals = 0
    for turn in range(STAGES + 1):
        counts = turn == STAGES
        for i in way:
            boards = {board for board in range(6) if i.waits >> board & 1}
            arrivals += counts and i.is_arrival and copies is None
            since = [asked[board] for board in boards & asked.keys()]
            if i.name == "LDGDEPBAR":
                groups.append(clock if copies is None else copies)
                copies = None
            elif i.name == "DEPBAR" and len(groups) > i.left_under_way:
                since.append(groups[-1 - i.left_under_way])
                del groups[: len(groups) - i.left_under_way]
            elif i.is_arrival and copies is not None:
                since.append(copies)
                copies = None
            if since:
                trips += counts
                covered += counts * min(clock - min(since), LONGEST_TRIP)
                asked.clear()  # what was issued before has arrived with it, or nearly
            elif boards & near:
                waits += counts
                clock += WAIT
            near -= boards
            if i.is_load and i.name not in ("LDGSTS", *BULK):
                asked[i.sets] = clock
            elif i.is_load:
                copies = clock if copies is None else copies
            elif i.sets != NO_SCOREBOARD:
                near.add(i.sets)
                asked.pop(i.sets, None)
            clock += max(1, i.stall)
    return waits, trips, covered, arrivals
