"""Static figures of the CUDA kernels on record, and when a kernel falls behind them.

gpu_static.py is their command and says what counts as behind.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import cubin
import turns
from turns import Figures

RECORD = Path(__file__).with_name("gpu_static.json")
LOOSE = 1.25  # how many times as many instructions another compiler may need


@dataclass(frozen=True)
class Multiprocessor:
    """Limits of a multiprocessor (CUDA C++ Programming Guide, technical specifications)."""

    warps: int
    blocks: int
    shared: int  # bytes
    registers: int = 65536
    of_block: int = 1024  # bytes of shared memory that the system takes of each block

    def resident(self, registers: int, threads: int, shared: int) -> int:
        """Blocks at a time. `shared`: static and dynamic bytes of one."""
        warps = -(-threads // 32)
        # Registers are given out to warps by the 256, shared memory to blocks by 128 bytes.
        of_warp = -(-registers * 32 // 256) * 256
        memory = -(-(shared + self.of_block) // 128) * 128
        return min(
            self.warps // warps,
            self.blocks,
            self.registers // of_warp // warps,
            self.shared // memory,
        )


MULTIPROCESSORS = {
    "80": Multiprocessor(64, 32, 164 << 10),
    "86": Multiprocessor(48, 16, 100 << 10),
    "89": Multiprocessor(48, 24, 100 << 10),
    "90": Multiprocessor(64, 32, 228 << 10),
    "100": Multiprocessor(64, 32, 228 << 10),
    "120": Multiprocessor(48, 24, 100 << 10),
}


# What is on record -------------------------------------------------------------------------------


@dataclass
class Static:
    """Figures by architecture and kernel, the compiler's release, and the launches of calls."""

    compiler: dict[str, str] = field(default_factory=dict)
    kernels: dict[str, dict[str, Figures]] = field(default_factory=dict)
    launches: dict[str, list[list[Any]]] = field(default_factory=dict)

    def dynamic(self, kernel: str) -> int:
        """Bytes of dynamic shared memory, the most that a listed call launches the kernel with."""
        return max(
            (one[4] for each in self.launches.values() for one in each if one[0] == kernel),
            default=0,
        )

    def resident(self, arch: str, kernel: str) -> int:
        """Blocks of the kernel that a multiprocessor holds."""
        f = self.kernels[arch][kernel]
        shared = f.shared + self.dynamic(kernel)
        return MULTIPROCESSORS[arch].resident(f.registers, f.threads, shared)

    def text(self) -> str:
        """As JSON, a kernel or a call a line, in an order of its own."""
        kernels = {
            arch: {name: self.kernels[arch][name].record() for name in sorted(self.kernels[arch])}
            for arch in sorted(self.kernels, key=int)
        }
        parts = {
            "compiler": {arch: self.compiler[arch] for arch in kernels},
            "columns": _columns(),
        }
        lines = [f'"{key}": {json.dumps(value)}' for key, value in parts.items()]
        for key, groups in (("kernels", kernels), ("launches", {"": self.launches})):
            blocks = [
                (f'"{name}": ' if name else "")
                + "{\n"
                + ",\n".join(f'"{k}": {json.dumps(v)}' for k, v in group.items())
                + "\n}"
                for name, group in groups.items()
            ]
            inside = ",\n".join(blocks)
            lines.append(f'"{key}": ' + (inside if key == "launches" else f"{{\n{inside}\n}}"))
        return "{\n" + ",\n".join(lines) + "\n}\n"

    @classmethod
    def read(cls, path: Path = RECORD) -> Static:
        """Raises ValueError where the record has other columns than this code."""
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["columns"] != _columns():
            raise ValueError(
                f"{path.name} has other columns than {_columns()}; "
                "gpu_static.py --update makes it anew"
            )
        kernels = {
            arch: {name: Figures.of_record(values) for name, values in group.items()}
            for arch, group in data["kernels"].items()
        }
        return cls(data["compiler"], kernels, data["launches"])


def _columns() -> list[Any]:
    return [*(f.name for f in fields(Figures)), {"turn": turns.TURN_FIELDS}]


def measure(module: Path, archs: Sequence[str], only: str = "") -> Static:
    """What is in a module, of kernels whose name and types match `only`."""
    found = Static()
    for code in cubin.kernels(module, archs):
        name = cubin.demangled(code.symbol)
        if not re.search(only, name):
            continue
        # A template that several files use is compiled in each, to the same code.
        group = found.kernels.setdefault(code.arch, {})
        if name not in group:
            group[name] = turns.figures(code)
        found.compiler[code.arch] = code.compiler
    return found


# The gate ----------------------------------------------------------------------------------------


def behind(recorded: Static, found: Static, only: str = "") -> list[str]:
    """What fell behind the record, a sentence each; of kernels that match `only`."""
    said = []
    found.launches = found.launches or recorded.launches
    for arch, kernels in found.kernels.items():
        if arch not in recorded.kernels:
            said.append(f"sm_{arch} is not on record")
            continue
        same = recorded.compiler.get(arch) == found.compiler.get(arch)
        before = {k: v for k, v in recorded.kernels[arch].items() if re.search(only, k)}
        said += [
            f"sm_{arch} {k}: on record, and no longer there" for k in before if k not in kernels
        ]
        for name, now in kernels.items():
            if name not in before:
                said.append(f"sm_{arch} {name}: not on record")
                continue
            blocks = recorded.resident(arch, name), found.resident(arch, name)
            faults = _faults(before[name], now, blocks, same)
            said += [f"sm_{arch} {name}: {fault}" for fault in faults]
    return said


def _faults(
    before: Figures, now: Figures, blocks: tuple[int, int], same_compiler: bool
) -> Iterable[str]:
    """blocks: that a multiprocessor holds, on record and now."""
    if now.stack > before.stack or now.local > before.local:
        yield (
            f"{now.stack} bytes of stack and {now.local} accesses to it, "
            f"expected {before.stack} and {before.local}"
        )
    if blocks[1] < blocks[0]:
        yield (
            f"{now.registers} registers and {now.shared} bytes leave room for {blocks[1]} blocks, "
            f"expected {blocks[0]} (of {before.registers} registers, {before.shared} bytes)"
        )
    more = 1.0 if same_compiler else LOOSE
    for way in ("loop", "narrow"):
        old, new = getattr(before, way), getattr(now, way)
        where = "the main loop" if way == "loop" else "the main loop's narrow way"
        if _mean_width(new) < _mean_width(old) / (1.0 if same_compiler else 1.1):
            yield f"{where} loads {spelled(new.loads)}, expected {spelled(old.loads)}"
        for what in ("barriers", "arrivals", "fences"):
            if getattr(new, what) > getattr(old, what):
                yield f"{where} has {getattr(new, what)} {what}, expected {getattr(old, what)}"
        for what in ("trips", "float64"):
            if getattr(new, what) > more * getattr(old, what):
                yield f"{where} has {getattr(new, what)} {what}, expected {getattr(old, what)}"
        if _per_product(new) > more * _per_product(old):
            unit = "instructions a product" if new.products else "instructions a turn"
            yield f"{where} has {_per_product(new):.1f} {unit}, expected {_per_product(old):.1f}"


def _mean_width(turn: turns.Turn) -> float:
    count = sum(count for _, count in turn.loads)
    return turn.bytes / count if count else 0.0


def _per_product(turn: turns.Turn) -> float:
    return turn.instructions / max(turn.products, 1)


def more_launches(recorded: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Calls that launch more kernels than on record, or that are not on it."""
    said = []
    for call, launches in found.items():
        before = recorded.get(call)
        if before is None:
            said.append(f"{call}: not on record")
        elif len(launches) > len(before):
            names = " ".join(one[0] for one in launches)
            said.append(f"{call}: {len(launches)} launches, expected {len(before)} ({names})")
    return said


def spelled(widths: Sequence[tuple[int, int]]) -> str:
    """(16, 8), (4, 2) as "8x16 2x4": so many of so many bytes."""
    return " ".join(f"{count}x{width or 'bulk'}" for width, count in widths) or "-"
