"""What the compiled CUDA kernels say about their speed without a device, and a gate on it.

It disassembles the built module and counts, for each kernel and architecture: registers, shared
memory, blocks that a multiprocessor holds, spills, the width of every load and store; and in a turn
of the main loop (turns.py): instructions, round trips to memory, products of tensor cores,
barriers, memory barriers and float64. What each call launches comes from the host code
(gpu_launches.py).

    python benchmarks/gpu_static.py                                   # sm_90, float32 and bfloat16
    python benchmarks/gpu_static.py --arch 80 120 --kernel gram       # others
    python benchmarks/gpu_static.py --launches dual_squeeze           # what its calls launch
    python benchmarks/gpu_static.py --json figures.json               # everything, to a file
    python benchmarks/gpu_static.py --check                           # 1 where a kernel fell behind
    python benchmarks/gpu_static.py --update                          # records what is built now

A kernel falls behind its record (gpu_static.json) with any spill, fewer blocks on a multiprocessor,
narrower loads, or one more barrier or memory barrier in its main loop. With the compiler of the
record, one more instruction or round trip counts, too; with another compiler, whose code differs,
only a quarter more.

Exit codes: 0 all is well, 1 a kernel fell behind or is not on record, 2 wrong arguments, 4 the
module has no CUDA kernels or there is no disassembler.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # from a bare checkout, where nothing is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cubin
from static_record import (
    MULTIPROCESSORS,
    RECORD,
    Static,
    behind,
    measure,
    more_launches,
    spelled,
)

FELL_BEHIND, NOTHING_TO_READ = 1, 4


# Tables ------------------------------------------------------------------------------------------


TITLES = [
    "kernel", "regs", "threads", "shared", "blocks", "spills", "loads", "stores",
    "loop: instr", "clocks", "trips", "loads", "products", "instr each", "float64", "barriers",
    "fences",
]  # fmt: skip


def table(static: Static, arch: str) -> list[list[str]]:
    lines = [TITLES]
    for name, f in sorted(static.kernels[arch].items()):
        turn = f.loop
        dynamic = static.dynamic(name)
        lines.append(
            [
                name,
                str(f.registers),
                str(f.threads),
                f"{f.shared}+{dynamic}" if dynamic else str(f.shared),
                str(static.resident(arch, name)),
                f"{f.stack} B, {f.local}" if f.stack or f.local else "none",
                spelled(f.loads),
                spelled(f.stores),
                f"{turn.instructions}{'*' if turn.inner else ''}",
                str(turn.clocks),
                str(turn.trips),
                spelled(turn.loads),
                str(turn.products),
                f"{turn.instructions / turn.products:.1f}" if turn.products else "",
                str(turn.float64),
                str(turn.barriers),
                str(turn.fences),
            ]
        )
    return lines


def aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def launch_lines(launches: Mapping[str, Sequence[Sequence[Any]]], pattern: str) -> list[str]:
    lines = []
    for call, each in launches.items():
        if not re.search(pattern, call):
            continue
        lines.append(f"{call}: {len(each)} launches")
        for kernel, blocks, threads, cluster, size, overlaps in each:
            more = f", clusters of {cluster}" if cluster > 1 else ""
            more += f", {size} bytes" if size else ""
            more += ", overlapping" if overlaps else ""
            lines.append(f"    {kernel}: {blocks} blocks of {threads}{more}")
    return lines


# The command -------------------------------------------------------------------------------------


def built() -> tuple[Path, tuple[str, ...]]:
    """The native module and its architectures.

    Raises cubin.NoDisassemblerError, or RuntimeError where it has no CUDA kernels.
    """
    from ccdn_ops.backends import native

    module = native.module()
    if module is None:
        raise RuntimeError(native.why_missing())
    archs = tuple(arch for arch in module.cuda_archs if arch in MULTIPROCESSORS)
    if not archs:
        raise RuntimeError("the native module was built without CUDA kernels")
    for name in ("cuobjdump", "nvdisasm"):
        cubin.tool(name)
    return Path(module.__file__), archs


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--module", type=Path, help="a shared object or cubin, not the built one")
    parser.add_argument("--arch", nargs="+", help="architectures (90; all for --check, --update)")
    parser.add_argument("--kernel", default=" (float|bf16)|^[a-z_]+( \\d+)*$", help="a pattern")
    parser.add_argument("--launches", metavar="PATTERN", help="list what these calls launch")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure to FILE")
    parser.add_argument("--check", action="store_true", help="compare with the record")
    parser.add_argument("--update", action="store_true", help="make this the record")
    parser.add_argument(
        "--no-launches", action="store_true", help="--check and --update: not those"
    )
    options = parser.parse_args(arguments)
    try:
        recorded = Static.read() if RECORD.exists() else Static()
    except ValueError as reason:
        if not options.update:
            parser.error(str(reason))
        recorded = Static()
    if options.launches is not None:
        print("\n".join(launch_lines(recorded.launches, options.launches)))
        return 0
    everything = options.check or options.update or options.json
    try:
        module, archs = (options.module, tuple(options.arch or ())) if options.module else built()
    except RuntimeError as reason:
        print(f"gpu-static: {reason}", file=sys.stderr)
        return NOTHING_TO_READ
    chosen = tuple(options.arch or (archs if everything else {"90"} & set(archs) or archs[:1]))
    if missing := set(chosen) - set(archs):
        parser.error(f"the module has no kernels for sm_{', sm_'.join(sorted(missing))}")
    found = measure(module, chosen, "" if everything else options.kernel)
    if everything and not options.no_launches:
        found.launches = _listed()
    elif not found.launches:
        found.launches = recorded.launches
    if options.json:
        options.json.write_text(found.text(), encoding="utf-8")
        print(f"wrote {options.json}")
    if options.check:
        said = behind(recorded, found) + more_launches(recorded.launches, found.launches)
        print("\n".join(said) or "no kernel fell behind its record")
        return FELL_BEHIND if said else 0
    if options.update:
        found.kernels = recorded.kernels | found.kernels
        found.compiler = recorded.compiler | found.compiler
        RECORD.write_text(found.text(), encoding="utf-8")
        print(f"wrote {RECORD}: sm_{', sm_'.join(chosen)}, {len(found.launches)} calls")
    elif not options.json:
        for arch in chosen:
            print(f"sm_{arch}, nvcc {found.compiler[arch]}\n{aligned(table(found, arch))}\n")
        print("* with loops inside, of which one turn each is counted")
    return 0


def _listed() -> dict[str, list[list[Any]]]:
    import gpu_launches

    listed = gpu_launches.launches(gpu_launches.emulation(), gpu_launches.calls())
    return {str(call): [list(one) for one in each] for call, each in listed.items()}


if __name__ == "__main__":
    raise SystemExit(main())
