"""What makes figures of a run doubtful: other programs on the machine, and impossible shares."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from cases import Row

BUSY = 0.1  # cores that other programs may take
STAT = Path("/proc/stat")


class Others:
    """How many cores other programs have kept busy since this object was made."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._busy, self._own = _busy_seconds(), _own_seconds()

    def cores(self) -> float | None:
        """Their mean number; None where the system does not say."""
        busy = _busy_seconds()
        if busy is None or self._busy is None:
            return None
        theirs = busy - self._busy - (_own_seconds() - self._own)
        return max(0.0, theirs / max(time.monotonic() - self._start, 1e-9))


def _busy_seconds() -> float | None:
    """Processor time of all programs since the machine started."""
    try:
        first = STAT.read_text(encoding="ascii").split("\n", 1)[0].split()
    except OSError:
        return None
    # user, nice, system, idle, iowait, irq, softirq, steal; the guests' time is within user's.
    user, nice, system, _, _, irq, softirq, steal = map(int, first[1:9])
    ticks: int = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq + steal) / ticks


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def warnings(rows: Sequence[Row], cores: float | None) -> list[str]:
    """What to know before a figure is believed. cores: those that other programs kept busy."""
    found = []
    if cores is not None and cores > BUSY:
        found.append(
            f"other programs kept {cores:.1f} cores busy: ratios are of interleaved rounds and may"
            " stand, times and shares of the roofline do not; repeat on a quiet machine"
        )
    above = [row for row in rows if row.share > 1]
    if above:
        most = max(above, key=lambda row: row.share)
        size = " ".join(f"{name}={value}" for name, value in most.size.items())
        found.append(
            f"{len(above)} of {len(rows)} rows exceed 100 % of the roofline, most {most.operator}"
            f" {size} with {100 * most.share:.0f} %: the copy or product that it is made of was"
            " disturbed, or is no bound for rows that read more than they write"
        )
    return found
