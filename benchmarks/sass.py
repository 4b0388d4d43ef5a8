"""What a kernel's machine instructions say about its speed.

A kernel's main loop is the one that does its arithmetic, with the loads or barriers that feed it.
Of the ways through a turn of it the one is followed that multiplies and moves the most, in the
fewest instructions: where a kernel has a way with wide loads and one with single elements, that is
the wide one. In a loop without products that moves packs of 16 bytes, these alone count. The way
that does as much in the most instructions is `narrow`.

Every instruction carries how many clocks the next one of its warp waits at least, and which
scoreboards it waits for (bits 105 to 121 of its encoding, from sm_70 on). So a round trip to memory
is counted where a warp waits for a load that it has not waited for yet: loads that are under way
together are one trip.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

from cubin import Code

_LINE = re.compile(r"\s+/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")
_LABEL = re.compile(r"^(\.L_x_\d+):")
_TARGET = re.compile(r"`\((\.L_x_\d+)\)")
_LEFT = re.compile(r",\s*0x([0-9a-f]+)")
_NO_SCOREBOARD = 7

PRODUCTS = ("HMMA", "DMMA", "IMMA", "QMMA", "HGMMA", "UTCHMMA", "UTCQMMA")
_SHAPES = {"16816": 2048, "1688": 1024, "1684": 512, "16832": 4096, "884": 256}
FLOAT64 = ("DFMA", "DADD", "DMUL", "DSETP", "DMNMX")
FUSED = ("FFMA", "FFMA2", "DFMA", "HFMA2")
LOADS = ("LDG", "LD", "LDGSTS", "UBLKCP", "UTMALDG")
STORES = ("STG", "ST", "UTMASTG")
BARRIERS = ("BAR", "UCGABAR_WAIT")
FENCES = ("MEMBAR", "FENCE")
BARRIER = 384  # as many loads, or twice the multiply-adds, count as much as a barrier
DEEPER = 8
WAIT = 30  # clocks of an access of shared memory, of a shuffle, of a root: about
STAGES = 6  # turns before the one that is counted, more than any pipeline of copies is long
LONGEST_TRIP = 1000  # clocks: what covers more of a trip than this covers no other one
_BULK = ("UBLKCP", "UTMALDG", "UTMASTG")


@dataclass(frozen=True)
class Instruction:
    """predicate: without it, "" where there is none. target: the index that it jumps to."""

    predicate: str
    name: str  # LDG of LDG.E.128
    parts: tuple[str, ...]  # E, 128
    operands: str
    target: int | None
    stall: int
    sets: int  # the scoreboard of what it writes, or _NO_SCOREBOARD
    waits: int  # a bit for each scoreboard

    @property
    def width(self) -> int:
        """Bytes a thread that a load or store moves; of a bulk copy, which has no width here, 0."""
        if self.name in _BULK:
            return 0
        sizes = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
        return next((sizes[p] for p in self.parts if p in sizes), 4)

    @property
    def is_product(self) -> bool:
        return self.name in PRODUCTS

    @property
    def multiply_adds(self) -> int:
        """Of a warp's product, in units of those of 16 bits: HMMA.1688, HGMMA.64x128x16, ..."""
        if not self.is_product:
            return 0
        times = 2 if "TF32" in self.parts else 1
        for part in self.parts:
            if re.fullmatch(r"\d+x\d+x\d+", part):  # of a warp group: four warps
                return times * math.prod(map(int, part.split("x"))) // 4
            if part in _SHAPES:
                return times * _SHAPES[part]
        return 0

    @property
    def is_arrival(self) -> bool:
        """Whether it waits until what others send has arrived."""
        return self.name == "SYNCS" and "TRYWAIT" in self.parts

    @property
    def waits_for_others(self) -> bool:
        return self.name in BARRIERS or self.name in FENCES or self.is_arrival

    @property
    def is_load(self) -> bool:
        return self.name in LOADS

    @property
    def left_under_way(self) -> int:
        """Groups of copies that DEPBAR.LE SB0, 0x2 does not wait for: the last two."""
        found = _LEFT.search(self.operands)
        return int(found[1], 16) if found else 0

    @property
    def ends(self) -> bool:
        """Whether nothing follows it in its place."""
        return self.name in ("EXIT", "RET", "BRA", "BRX", "JMP", "BRK") and (
            not self.predicate and not (self.name == "BRA" and _conditional(self.operands))
        )


def _conditional(operands: str) -> bool:
    """BRA P1, `(...)` and BRA.DIV ~URZ, `(...)` may fall through."""
    return not operands.startswith("`")


@dataclass(frozen=True)
class Turn:
    """A way through a turn of a loop (or once through a kernel that has none).

    Args:
        instructions: of a warp.
        clocks: that the instructions keep a warp busy, whatever it waits for.
        waits: for shared memory, other lanes and slow arithmetic.
        trips: round trips to memory, one after another.
        covered: clocks between asking for the loads of a trip and waiting for them, over the trips,
            as far as `clocks` and `waits` tell, LONGEST_TRIP at most for each. Copies of a pipeline
            are asked for several turns before.
        loads: bytes and count of the loads and asynchronous copies from global memory.
        products: instructions of tensor cores.
        tensor: their multiply-adds a warp, those of TF32 counted twice: they take twice as long.
        fused: multiply-adds in the ordinary cores.
        float64: instructions in float64.
        barriers: of a block or a cluster.
        arrivals: waits for what other blocks send into shared memory.
        fences: memory barriers.
        inner: loops inside of the turn, of which one turn each is counted.
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
        """Those of the widest loads: what a turn streams, without what all turns load again."""
        return self.loads[0][0] * self.loads[0][1] if self.loads else 0


@dataclass(frozen=True)
class Figures:
    """What is recorded of a kernel: resources, the whole of it, and its main loop."""

    registers: int
    threads: int
    shared: int
    stack: int
    local: int  # loads and stores of local memory: spills, arrays that are indexed
    loads: tuple[tuple[int, int], ...]  # width in bytes, count
    stores: tuple[tuple[int, int], ...]
    loop: Turn
    narrow: Turn
    once: Turn  # through the kernel and once through the loop, the way that stores the most

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


# Reading -----------------------------------------------------------------------------------------


def parse(code: Code) -> list[Instruction]:
    """The instructions of a kernel, with those of the functions that it calls behind them."""
    labels: dict[str, int] = {}
    rows: list[tuple[int, str, str, str]] = []
    for line in code.text:
        found = _LINE.match(line)
        if found:
            address, predicate, name, operands = found.groups()
            rows.append((int(address, 16) // 16, predicate or "", name, operands))
        elif line.startswith(".L_x_"):
            label = _LABEL.match(line)
            if label:
                labels[label[1]] = len(rows)
    program = []
    for place, predicate, name, operands in rows:
        control = code.encodings[place] >> 105
        first, *parts = name.split(".")
        jumps = first in ("BRA", "JMP") and "`" in operands
        target = _TARGET.search(operands) if jumps else None
        program.append(
            Instruction(
                "" if predicate in ("PT", "UPT") else predicate,
                first,
                tuple(parts),
                operands,
                labels[target[1]] if target else None,
                control & 15,
                control >> 5 & 7,
                control >> 11 & 63,
            )
        )
    return program


# Loops -------------------------------------------------------------------------------------------


def loops(program: Sequence[Instruction]) -> list[tuple[int, int]]:
    """(first, last) instruction of every loop: where the code jumps back, merged by where to.

    A jump back from code that was moved to the kernel's end is none: only one to an instruction
    that the way to the jump has passed.
    """
    found: dict[int, int] = {}
    entered, left = [False] * len(program), [False] * len(program)
    stack = [(0, 0)]
    while stack:
        at, taken = stack.pop()
        entered[at] = True
        instruction = program[at]
        ways = [] if instruction.ends or at + 1 == len(program) else [at + 1]
        ways += [] if instruction.target is None else [instruction.target]
        if taken == len(ways):
            left[at] = True
            continue
        stack.append((at, taken + 1))
        way = ways[taken]
        if not entered[way]:
            stack.append((way, 0))
        elif not left[way] and way < at:
            found[way] = max(at, found.get(way, at))
    return sorted(found.items())


def main_loop(program: Sequence[Instruction]) -> tuple[int, int]:
    """(first, last) instruction of the main loop, or of the whole kernel where there is no loop.

    The loop that does the most, outside of the loops in it: products first, then arithmetic and
    loads, and in a loop that loads nothing a barrier, DEEPER times as much for each loop around.
    Where that one neither loads nor waits at a barrier, the smallest loop around it that does.
    """
    every = loops(program)
    if not every:
        return 0, len(program) - 1

    def work(loop: tuple[int, int]) -> tuple[int, int, int]:
        inside = range(loop[0], loop[1] + 1)
        inner = [other for other in every if other != loop and _within(other, loop)]
        own = [program[at] for at in inside if not any(a <= at <= b for a, b in inner)]
        depth = sum(_within(loop, other) for other in every)
        products = sum(i.is_product for i in own)
        done = sum(2 if i.name in FUSED else i.name in FLOAT64 or i.is_load for i in own)
        if done and not any(program[at].is_load for at in inside):
            done += BARRIER * any(program[at].waits_for_others for at in inside)
        return products, done * DEEPER**depth, -len(inside)

    core = max(every, key=work)
    fed = [
        (first, last)
        for first, last in every
        if _within(core, (first, last))
        and any(i.is_load or i.waits_for_others for i in program[first : last + 1])
    ]
    return min(fed or [core], key=lambda loop: loop[1] - loop[0])


def _within(inner: tuple[int, int], outer: tuple[int, int]) -> bool:
    return outer[0] <= inner[0] and inner[1] <= outer[1]


# Ways through a loop -----------------------------------------------------------------------------


def _turn_of(program: Sequence[Instruction], loop: tuple[int, int], indices: Sequence[int]) -> Turn:
    way = [program[at] for at in indices]
    inner = sum(_within(other, loop) for other in loops(program) if other != loop)
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
    """Indices of the way through a loop, or the whole kernel, whose instructions are worth most.

    Jumps back are not taken: a loop inside is passed once. `worth` of an index is a tuple; the
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
                best[at] = worth(at)  # the next turn may begin here, too
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
    """waits, trips, covered and arrivals of a turn; loads of STAGES others are under way."""
    asked: dict[int, int] = {}  # when, by scoreboard, of loads from global memory
    near: set[int] = set()  # scoreboards of anything else
    copies: int | None = None  # when the first asynchronous copy of a group was asked for
    groups: list[int] = []  # of copies on their way, when each was asked for
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
                asked.clear()  # what was asked for before has arrived with it, or nearly
            elif boards & near:
                waits += counts
                clock += WAIT
            near -= boards
            if i.is_load and i.name not in ("LDGSTS", *_BULK):
                asked[i.sets] = clock
            elif i.is_load:
                copies = clock if copies is None else copies
            elif i.sets != _NO_SCOREBOARD:
                near.add(i.sets)
                asked.pop(i.sets, None)
            clock += max(1, i.stall)
    return waits, trips, covered, arrivals
