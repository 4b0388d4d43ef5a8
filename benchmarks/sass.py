"""The machine instructions of a kernel, and its loops.

Every instruction carries the least number of clocks before the next one of its warp, and the
scoreboards that it waits for (bits 105 to 121 of its encoding, from sm_70 on).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from cubin import Code

_LINE = re.compile(r"\s+/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")
_LABEL = re.compile(r"^(\.L_x_\d+):")
_TARGET = re.compile(r"`\((\.L_x_\d+)\)")
_LEFT = re.compile(r",\s*0x([0-9a-f]+)")
NO_SCOREBOARD = 7

PRODUCTS = ("HMMA", "DMMA", "IMMA", "QMMA", "HGMMA", "UTCHMMA", "UTCQMMA")
_SHAPES = {"16816": 2048, "1688": 1024, "1684": 512, "16832": 4096, "884": 256}
FLOAT64 = ("DFMA", "DADD", "DMUL", "DSETP", "DMNMX")
FUSED = ("FFMA", "FFMA2", "DFMA", "HFMA2")
LOADS = ("LDG", "LD", "LDGSTS", "UBLKCP", "UTMALDG")
STORES = ("STG", "ST", "UTMASTG")
BULK = ("UBLKCP", "UTMALDG", "UTMASTG")
BARRIERS = ("BAR", "UCGABAR_WAIT")
FENCES = ("MEMBAR", "FENCE")
BARRIER = 384  # as many loads, or half as many multiply-adds, count as much as a barrier
DEEPER = 8


@dataclass(frozen=True)
class Instruction:
    """One instruction: `predicate` without its @, "" if there is none; `target`, the index that it
    jumps to.
    """

    predicate: str
    name: str  # LDG of LDG.E.128
    parts: tuple[str, ...]  # E, 128
    operands: str
    target: int | None
    stall: int
    sets: int  # the scoreboard of what it writes, or NO_SCOREBOARD
    waits: int  # a bit for each scoreboard

    @property
    def width(self) -> int:
        """Bytes a thread that a load or store moves; 0 for a bulk copy, which has no width here."""
        if self.name in BULK:
            return 0
        sizes = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
        return next((sizes[p] for p in self.parts if p in sizes), 4)

    @property
    def is_product(self) -> bool:
        return self.name in PRODUCTS

    @property
    def multiply_adds(self) -> int:
        """Those of a warp's product, in units of 16-bit ones: HMMA.1688, HGMMA.64x128x16, ..."""
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
        """Whether it waits until what other blocks send has arrived."""
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
        """Whether the instruction behind it is not the next one."""
        return self.name in ("EXIT", "RET", "BRA", "BRX", "JMP", "BRK") and (
            not self.predicate and not (self.name == "BRA" and _conditional(self.operands))
        )


def _conditional(operands: str) -> bool:
    """BRA P1, `(...)` and BRA.DIV ~URZ, `(...)` may fall through."""
    return not operands.startswith("`")


def parse(code: Code) -> list[Instruction]:
    """The instructions of a kernel, followed by those of the functions that it calls."""
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


def loops(program: Sequence[Instruction]) -> list[tuple[int, int]]:
    """(first, last) instruction of every loop: jumps back, merged by their targets.

    Code that was moved to the kernel's end jumps back too, without a loop: a jump counts only if
    the path to it has passed its target.
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
    """(first, last) instruction of the main loop, or of the whole kernel if it has no loop.

    That is the loop that does the most, not counting the loops inside it: products first, then
    arithmetic and loads, or barriers in a loop that loads nothing; DEEPER times as much for each
    loop around it. If it neither loads nor waits at a barrier, the smallest loop around it that
    does.
    """
    every = loops(program)
    if not every:
        return 0, len(program) - 1

    def work(loop: tuple[int, int]) -> tuple[int, int, int]:
        inside = range(loop[0], loop[1] + 1)
        inner = [other for other in every if other != loop and within(other, loop)]
        own = [program[at] for at in inside if not any(a <= at <= b for a, b in inner)]
        depth = sum(within(loop, other) for other in every)
        products = sum(i.is_product for i in own)
        done = sum(2 if i.name in FUSED else i.name in FLOAT64 or i.is_load for i in own)
        if done and not any(program[at].is_load for at in inside):
            done += BARRIER * any(program[at].waits_for_others for at in inside)
        return products, done * DEEPER**depth, -len(inside)

    core = max(every, key=work)
    fed = [
        (first, last)
        for first, last in every
        if within(core, (first, last))
        and any(i.is_load or i.waits_for_others for i in program[first : last + 1])
    ]
    return min(fed or [core], key=lambda loop: loop[1] - loop[0])


def within(inner: tuple[int, int], outer: tuple[int, int]) -> bool:
    return outer[0] <= inner[0] and inner[1] <= outer[1]
