"""The kernels in a built native module: their resources, encodings and disassembled text.

cuobjdump and nvdisasm read it; they come with Triton and with nvcc's toolkit. No device is needed.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# The element types in mangled names.
MANGLED = {"f": "float", "d": "double", "__nv_bfloat16": "bf16", "__half": "half"}
_MAX_THREADS = 0x05  # EIATTR_MAX_THREADS of a kernel's .nv.info
_INSTRUCTION = 16  # bytes


class NoDisassemblerError(RuntimeError):
    """cuobjdump or nvdisasm was not found."""


@dataclass(frozen=True)
class Code:
    """One kernel as it was compiled for one architecture.

    Args:
        arch: such as "90".
        compiler: the release of nvcc, such as "13.0.88".
        registers: of a thread.
        stack: bytes of a thread, spilled registers among them.
        shared: static bytes of a block.
        threads: of a block, the most that the kernel allows.
        encodings: of the instructions in order, 128 bits each.
        text: nvdisasm's lines.
    """

    symbol: str
    arch: str
    compiler: str
    registers: int
    stack: int
    shared: int
    threads: int
    encodings: tuple[int, ...]
    text: list[str]


def demangled(symbol: str) -> str:
    """ccdn::cuda::NAME<TYPE, NUMBER, OTHER<NUMBER>...> as "NAME TYPE NUMBER NUMBER..."."""
    # A length-prefixed name, then the template arguments.
    name = re.match(r"_ZN4ccdn4cuda(\d+)(\w+)", symbol)
    if name is None:
        return symbol
    length = int(name[1])
    kernel, rest = name[2][:length], name[2][length:]
    return " ".join([kernel, *_template_arguments(rest)]) if rest.startswith("I") else kernel


def _template_arguments(rest: str) -> list[str]:
    """Element types and numbers of I...E, those inside of other types too, in order."""
    found, at, depth = [], 1, 1
    while depth:
        number = re.compile(r"L[a-z](\d+)E").match(rest, at)
        known = re.compile(r"S[0-9A-Z]*_").match(rest, at)  # a name that was there before
        named = re.compile(r"\d+").match(rest, at)
        if number:
            found.append(number[1])
            at = number.end()
        elif known:
            at = known.end()
        elif named:
            at = named.end() + int(named[0])
            found += [MANGLED[rest[named.end() : at]]] if rest[named.end() : at] in MANGLED else []
        else:
            found += [MANGLED[rest[at]]] if rest[at] in MANGLED else []
            depth += {"I": 1, "N": 1, "E": -1}.get(rest[at], 0)
            at += 1
    return found


@cache
def tool(name: str) -> str:
    """The path of a tool: nvcc's toolkit's if there is one, else Triton's.

    Raises NoDisassemblerError if neither has it.
    """
    toolkit = shutil.which("nvcc")
    places = [Path(os.path.realpath(toolkit)).parent] if toolkit else []
    places.append(Path("/usr/local/cuda/bin"))
    try:
        import triton

        places.append(Path(triton.__file__).parent / "backends" / "nvidia" / "bin")
    except ImportError:
        pass
    for place in places:
        if os.access(place / name, os.X_OK):
            return str(place / name)
    raise NoDisassemblerError(f"{name} is not in {', '.join(map(str, places))}")


def kernels(module: Path, archs: Sequence[str], jobs: int = 2) -> Iterator[Code]:
    """Every kernel that `module` (a shared object or a cubin) has for these architectures."""
    with tempfile.TemporaryDirectory(prefix="ccdn-cubin-") as folder:
        for arch in archs:
            command = [tool("cuobjdump"), "-arch", f"sm_{arch}", "-xelf", "all"]
            _run([*command, str(module.resolve())], folder)
        with ThreadPoolExecutor(jobs) as pool:
            for found in pool.map(_read, sorted(Path(folder).glob("*.cubin"))):
                yield from found


def _run(command: Sequence[str], folder: str | None = None) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def _read(cubin: Path) -> list[Code]:
    sections = _sections(cubin.read_bytes())
    resources = _run([tool("cuobjdump"), "-res-usage", str(cubin)])
    # Dataflow only annotates indirect jumps, and takes half of the time.
    text = _run([tool("nvdisasm"), "-c", "-ndf", str(cubin)])
    target = re.search(r"\.target\s+sm_(\w+)", text)
    if target is None:
        raise RuntimeError(f"nvdisasm names no architecture in {cubin.name}")
    release = re.search(rb"release [\d.]+, V([\d.]+)", sections.get(".note.nv.tkinfo", b""))
    compiler = release[1].decode() if release else "unknown"
    bodies = {}
    for body in text.split("//--------------------- .text.")[1:]:
        lines = body.splitlines()
        bodies[lines[0].split()[0]] = lines[1:]
    found = []
    for symbol, registers, stack, shared in re.findall(
        r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+)", resources
    ):
        code = sections[f".text.{symbol}"]
        found.append(
            Code(
                symbol,
                target[1],
                compiler,
                int(registers),
                int(stack),
                int(shared),
                _max_threads(sections.get(f".nv.info.{symbol}", b"")),
                tuple(
                    int.from_bytes(code[at : at + _INSTRUCTION], "little")
                    for at in range(0, len(code), _INSTRUCTION)
                ),
                bodies[symbol],
            )
        )
    return found


def _sections(elf: bytes) -> dict[str, bytes]:
    """The sections of a 64-bit ELF file by name."""
    (table,) = struct.unpack_from("<Q", elf, 0x28)
    size, count, names = struct.unpack_from("<HHH", elf, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", elf, table + i * size) for i in range(count)]
    strings = headers[names][4]

    def name(at: int) -> str:
        return elf[strings + at : elf.index(b"\0", strings + at)].decode()

    return {name(h[0]): elf[h[4] : h[4] + h[5]] for h in headers if h[1] != 8}  # 8: no bits


def _max_threads(info: bytes) -> int:
    """The product of EIATTR_MAX_THREADS; 1024 if the kernel has no launch bounds."""
    at = 0
    while at + 4 <= len(info):
        form, attribute, size = struct.unpack_from("<BBH", info, at)
        if form == 4 and attribute == _MAX_THREADS:
            x, y, z = struct.unpack_from("<III", info, at + 4)
            return int(x * y * z)
        at += 4 + (size if form == 4 else 0)
    return 1024
