"""The CPU kernels on an emulated processor: AVX-512 and AVX512-BF16 where this one lacks them.

The native functions run in BochsCPU (package bochscpu-python), on this process' own memory,
as they were compiled. As a plugin of pytest (`-p emulated_processor --processor avx512-bf16`, where
the environment is that of `environment`) it puts them in the place of the real ones.
"""

from __future__ import annotations

import ctypes
import importlib.util
import mmap
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).parent
PAGE = 4096
STACK = 1 << 23
# Their functions take more structs than the first, which the bindings make of whole numbers.
NOT_EMULATED = ("excitation_gates_", "ctm_")
# csrc/cpu/engine/dispatch.h: Isa and Pairs.
PROCESSORS = {"x86-64-v4": (2, 0), "avx512-bf16": (2, 2), "avx512-bf16 in floats": (2, 1)}


def why_missing() -> str | None:
    if importlib.util.find_spec("bochscpu") is None:
        return "bochscpu-python, which emulates AVX-512, is not installed"
    return None if shutil.which("g++") and shutil.which("nm") else "no g++ or nm"


def environment(folder: Path) -> dict[str, str]:
    """That of a process which can use the plugin; compiles what must be loaded before BochsCPU."""
    spec = importlib.util.find_spec("bochscpu")
    assert spec is not None
    assert spec.origin is not None
    (module,) = Path(spec.origin).parent.glob("_bochscpu*.so")
    preload = folder / "preload.so"
    command = ["g++", "-shared", "-fPIC", f'-DBOCHS_MODULE="{module}"', str(HERE / "preload.cpp")]
    subprocess.run([*command, "-o", str(preload), "-ldl"], check=True)
    path = os.pathsep.join([str(HERE.parent), *sys.path])
    added = {"LD_PRELOAD": str(preload), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return {**os.environ, **added}


class Room:
    """Pages of private memory."""

    def __init__(self, size: int) -> None:
        self.memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))


def regions(module: str) -> Iterator[tuple[int, int]]:
    """The memory that a kernel may reach: the module, the C library, and what is no file."""
    libraries = re.compile(r"/(libc|libm|libstdc\+\+|libgcc_s|ld-[^/]*)[.-][^/]*$")
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, access, *_, name = (line + " ").split(" ", 5)
        name = name.strip()
        first, end = (int(part, 16) for part in span.split("-"))
        file = name.startswith("/") and name != module and not libraries.search(name)
        if "r" in access and not file and name not in ("[vvar]", "[vsyscall]"):
            yield first, end


class Processor:
    """One that has AVX512-BF16, whose memory is this process' own."""

    def __init__(self, module: str) -> None:
        self.module = module
        self.stack, self.stop = Room(STACK), Room(PAGE)
        self.stop.memory[0] = 0xF4  # hlt
        base = ctypes.c_ulong()
        ctypes.CDLL(None).syscall(158, 0x1003, ctypes.byref(base))  # arch_prctl(ARCH_GET_FS)
        self.thread = base.value

    def page_tables(self) -> tuple[int, Callable[[int], int]]:
        """CR3, and where a physical page is in memory: the tables come first, then all regions."""
        spans = list(regions(self.module))
        pages = np.concatenate([np.arange(a // PAGE, b // PAGE, dtype=np.uint64) for a, b in spans])
        behind = 1 << 20  # the first physical page that is no table
        keys, entries = pages, (np.arange(len(pages), dtype=np.uint64) + np.uint64(behind)) * PAGE
        tables: list[Any] = []
        for _ in range(4):
            parents, place = np.unique(keys >> np.uint64(9), return_inverse=True)
            table = np.zeros((len(parents), 512), np.uint64)
            table[place, (keys & np.uint64(511)).astype(np.int64)] = entries | np.uint64(7)
            first = sum(map(len, tables)) + 1
            tables.append(table)
            keys = parents
            entries = (np.arange(len(parents), dtype=np.uint64) + np.uint64(first)) * PAGE
        room = Room(PAGE * sum(map(len, tables)))
        np.frombuffer(room.memory, np.uint64)[:] = np.concatenate(tables).reshape(-1)

        def host(physical: int, room: Room = room) -> int:
            page = physical // PAGE
            return (
                room.address + physical - PAGE
                if page < behind
                else int(pages[page - behind]) * PAGE
            )

        return int(entries[0]), host

    def call(self, function: int, *arguments: int) -> int:
        """What the function at this address returns for whole numbers or addresses."""
        import bochscpu
        import bochscpu.cpu
        import bochscpu.memory

        root, host = self.page_tables()
        session, inserted, faults = bochscpu.Session(), set[int](), []

        def missing(physical: int) -> None:
            page = physical & -PAGE
            bochscpu.memory.page_insert(page, host(page))
            inserted.add(page)

        def exception(_: object, __: int, vector: int, ___: int) -> None:
            faults.append(
                f"exception {vector} at {session.cpu.rip:#x}, address {session.cpu.cr2:#x}"
            )
            session.stop()

        def segment(selector: int, kind: int, base: int = 0) -> Any:
            found = bochscpu.Segment()
            found.present, found.selector, found.attr = True, selector, kind
            found.base, found.limit = base, 0xFFFFFFFF
            return found

        session.missing_page_handler = missing
        state = bochscpu.State()
        bochscpu.cpu.set_long_mode(state)
        state.cr0, state.cr3, state.cr4, state.efer = 0x80050033, root, 0x406E0, 0xD01
        state.xcr0, state.mxcsr, state.mxcsr_mask, state.rflags = 0xE7, 0x1F80, 0xFFFF, 2
        state.cs = segment(0x10, 0xA09B)
        state.ss = state.ds = state.es = state.gs = segment(0x18, 0xC093)
        state.fs = segment(0x18, 0xC093, self.thread)
        numbers = [number & (2**64 - 1) for number in arguments]
        behind = numbers[6:] + [0] * (len(numbers[6:]) % 2)  # the stack is aligned to 16 bytes
        stack = [self.stop.address, *behind]
        state.rsp = self.stack.address + STACK - PAGE - 8 * len(behind) - 8
        (ctypes.c_uint64 * len(stack)).from_address(state.rsp)[:] = stack
        for register, number in zip(
            ("rdi", "rsi", "rdx", "rcx", "r8", "r9"), numbers, strict=False
        ):
            setattr(state, register, number)
        state.rip = function
        session.cpu.state = state
        hook = bochscpu.Hook()
        hook.hlt = lambda *_: session.stop()
        hook.exception = exception
        session.run([hook])
        for page in inserted:
            bochscpu.memory.page_remove(page)
        if faults:
            raise RuntimeError(faults[0])
        return int(session.cpu.state.rax)


class Module:
    """The native module with its kernels emulated, but for those in NOT_EMULATED."""

    def __init__(self, real: Any, name: str) -> None:
        self._real, self._chosen = real, PROCESSORS[name]
        real.cpu_isa()  # makes the choices that are replaced
        self._processor = Processor(real.__file__)
        loaded = next(
            line
            for line in Path("/proc/self/maps").read_text().splitlines()
            if real.__file__ in line
        )
        base = int(loaded.split("-")[0], 16)
        names = subprocess.run(["nm", real.__file__], capture_output=True, text=True, check=True)
        parts = (line.split() for line in names.stdout.splitlines())
        self._symbols = {p[2]: base + int(p[0], 16) for p in parts if len(p) == 3}
        self.calls = 0

    def _address(self, name: str) -> int:
        (found,) = {a for s, a in self._symbols.items() if re.fullmatch(name, s)}
        return found

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        if not name.endswith("_cpu") or name.startswith(NOT_EMULATED):
            return real

        def call(shape: Any, *arguments: int) -> int:
            choices = ("_ZZN4ccdn3isaEvE4best", "_ZZN4ccdn10bf16_pairsEvE5pairs")
            places = [ctypes.c_int.from_address(self._address(choice)) for choice in choices]
            usual = [place.value for place in places]
            for place, value in zip(places, self._chosen, strict=True):
                place.value = value
            try:
                if "workspace" in name:
                    return int(real(shape, *arguments))
                self.calls += 1
                kernel = self._address(rf"_ZN4ccdn{len(name)}{name}E\w*")
                # pybind11 keeps the address of the C++ object behind Python's head.
                struct = ctypes.c_uint64.from_address(id(shape) + 16).value
                return self._processor.call(kernel, struct, *map(int, arguments)) & 0xFFFFFFFF
            finally:
                for place, value in zip(places, usual, strict=True):
                    place.value = value

        return call


# The plugin ----------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--processor", choices=list(PROCESSORS))


def pytest_configure(config: pytest.Config) -> None:
    name = config.getoption("--processor")
    if name is None:
        return
    from ccdn_ops.backends import native
    from ccdn_ops.ops.direct import Direct

    native._C = Module(native.require(), name)
    Direct.learn = lambda *_: None  # calls that are kept would keep the real functions


def pytest_unconfigure(config: pytest.Config) -> None:
    from ccdn_ops.backends import native

    if isinstance(native._C, Module):
        print(f"\n{native._C.calls} kernels ran in the emulated processor")
