"""The CUDA kernels on the CPU: csrc/cuda compiled as C++ against the headers of this folder.

`build(folder)` makes a native module of csrc/bindings.cpp and the kernels, with the functions of
the real one; `Emulation` puts it in the real one's place, so that ccdn_ops/backends/cuda serves CPU
tensors with it. Every tensor that a kernel sees lies between guards.
"""

from __future__ import annotations

import ctypes
import importlib.util
import mmap
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ccdn_ops import use_backend
from ccdn_ops.backends import native, registry, structs
from ccdn_ops.plans import dual_squeeze_plan
from ccdn_ops.precision import DTYPE_NAMES, accumulation_dtype

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
GUARD = 1 << 20  # bytes before and after a tensor that may not be touched
STREAM = 7  # what the kernels must be launched on


def compiler() -> str | None:
    return shutil.which("g++") and shutil.which("objcopy")


def files() -> list[Path]:
    return sorted((ROOT / "csrc" / "cuda").glob("*.cu"))


def operators() -> list[str]:
    """Those that have CUDA kernels."""
    return [path.stem for path in files() if path.stem != "probe"]


def build(folder: Path, *, races: bool = False) -> Path:
    """The emulated native module, a shared object in `folder`.

    With `races` every read and write of the kernels is watched (races.cpp), which takes ten times
    as long; `Emulation.races` says what was found.
    """
    import pybind11

    # An index outside of a shared array, or an address between two numbers, stops the process,
    # which no test survives unnoticed.
    kernel_flags = ["-fsanitize=bounds,alignment", "-fsanitize-undefined-trap-on-error"]
    # Where they are watched, loads stay where they are written.
    watched = ["-O1", "-g1", "-fsanitize=thread", "--param=tsan-instrument-func-entry-exit=0"]
    kernel_flags += watched if races else ["-O2"]
    # Coroutines jump between stacks, which hardened longjmp refuses. Products are fused or not as
    # the compiler likes; on the device they are fused.
    kernel_flags += ["-U_FORTIFY_SOURCE", "-Wno-unknown-pragmas", "-x", "c++"]
    python = (pybind11.get_include(), sysconfig.get_path("include"))
    binding_flags = ["-O0", '-DCCDN_CUDA_ARCHS="90"']
    binding_flags += [f"-I{folder}", *(f"-isystem{path}" for path in python)]
    written = str(folder / "bindings_operators.h")
    _run([sys.executable, str(ROOT / "csrc" / "bindings.py"), "--operators", written])
    sources = {ROOT / "csrc" / "bindings.cpp": binding_flags, HERE / "library.cpp": kernel_flags}
    sources |= dict.fromkeys(files(), kernel_flags)
    if races:
        sources |= {HERE / "faults.cpp": kernel_flags, HERE / "races.cpp": ["-O2"]}
    common = ["-std=c++17", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"]
    common += [f"-I{HERE}", f"-I{ROOT / 'csrc'}", *(["-DCCDN_RACES"] if races else [])]

    def compile_one(source: Path) -> Path:
        target = folder / f"{source.name}.o"
        _run(["g++", *common, *sources[source], "-c", str(source), "-o", str(target)])
        return target

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, sources))
    # The bindings also name the CPU kernels, which are not here and are never called.
    _run(["objcopy", "--weaken", str(objects[0])])
    library = folder / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    _run(["g++", "-shared", *map(str, objects), "-o", str(library)])
    return library


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the emulated kernels do not compile:\n{done.stderr}")


class Guarded:
    """Tensors for a kernel, each in memory of its own.

    Behind a tensor, and far before it, lie pages that may not be touched: a kernel that does stops
    the process. What directly precedes it, and all that is not written yet, are 0xFF bytes (NaN).
    """

    def __init__(self) -> None:
        self.fronts: list[Tensor] = []

    def empty(self, shape: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        extent = 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
        size = (extent if 0 not in shape else 0) * dtype.itemsize
        inner = -(-(size + 1) // mmap.PAGESIZE) * mmap.PAGESIZE
        pages = mmap.mmap(-1, inner + 2 * GUARD)
        start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
        for at in (start, start + GUARD + inner):
            if ctypes.CDLL(None).mprotect(ctypes.c_void_p(at), ctypes.c_size_t(GUARD), 0):
                raise OSError("mprotect failed")
        block = torch.frombuffer(pages, dtype=torch.uint8, offset=GUARD, count=inner)
        block.fill_(0xFF)
        self.fronts.append(block[: inner - size])
        if size == 0:
            return torch.empty(0, dtype=dtype).as_strided(shape, stride)
        # A storage of its own, as what an operator returns has.
        tensor = torch.frombuffer(pages, dtype=dtype, offset=GUARD + inner - size, count=extent)
        return tensor.as_strided(shape, stride)

    def new(self, *shape: int, dtype: torch.dtype) -> Tensor:
        return self.empty(shape, torch.empty(shape, device="meta").stride(), dtype)

    def copy(self, x: Tensor, empty: Callable[..., Tensor] | None = None) -> Tensor:
        result = (empty or self.empty)(tuple(x.shape), x.stride(), x.dtype)
        # Of a broadcast dimension there is one copy in memory.
        narrow = [slice(None) if s else slice(0, 1) for s in x.stride()]
        result[tuple(narrow)] = x[tuple(narrow)]
        return result

    def like(self, x: Tensor) -> Tensor:
        """An unwritten tensor with x's shape, strides and dtype."""
        return self.empty(tuple(x.shape), x.stride(), x.dtype)

    def check(self) -> None:
        assert all((front == 0xFF).all() for front in self.fronts), "a write before a tensor"


class GuardedAllocations(TorchDispatchMode):
    """Within, what torch.empty and the like return lies between guards."""

    NAMES = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided")

    def __init__(self, memory: Guarded) -> None:
        super().__init__()
        self.memory = memory

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        found = func(*args, **(kwargs or {}))
        return self.memory.like(found) if func._opname in self.NAMES else found


def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """A backend's function with all of its tensors, those that it is given too, between guards."""

    def call(*arguments: Any) -> Any:
        memory = Guarded()

        def inside(x: Any) -> Any:
            if isinstance(x, (list, tuple)):
                return [inside(element) for element in x]
            return memory.copy(x.detach()) if isinstance(x, Tensor) else x

        with GuardedAllocations(memory):
            found = function(*map(inside, arguments))
        memory.check()
        return found

    return call


class Launch(NamedTuple):
    """One launch as it was asked for.

    bytes: of dynamic shared memory; overlaps: 1 where it may begin before the last one has ended.
    """

    symbol: str  # of the kernel
    blocks: int
    threads: int
    cluster: int  # blocks of one
    bytes: int
    overlaps: int


class Emulation:
    """The emulated module, and the backend "cuda" with it behind."""

    def __init__(self, path: Path) -> None:
        self.path = path
        spec = importlib.util.spec_from_file_location("_C", path)
        assert spec is not None
        assert spec.loader is not None
        self.module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)
        # The plain functions of library.cpp.
        self.native = ctypes.CDLL(str(path))
        self.native.emulated_launches.restype = ctypes.c_int64
        self.native.emulated_clusters.restype = ctypes.c_int64
        self.native.emulated_driver.restype = ctypes.c_int64
        self.native.emulated_launched.restype = ctypes.c_int64

    def settings(self, thread_order: int = 0, largest_grid: int = 0) -> None:
        """How threads take turns (0 in order, 1 reversed, else random) and the grid's limit."""
        self.native.emulated_settings(thread_order, largest_grid, STREAM)

    def races(self) -> list[str]:
        """What a build with `races` has found since the last call, with the lines of the code."""
        self.native.emulated_races.restype = ctypes.c_char_p
        found = self.native.emulated_races().decode().splitlines()
        places = sorted({place for line in found for place in re.findall(r"@(\w+)", line)})
        command = ["addr2line", "-s", "-p", "-e", str(self.path), *places]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        lines = [line.partition(" (")[0] for line in done.stdout.splitlines()]
        line_of = dict(zip(places, lines, strict=True)) if places else {}
        return [re.sub(r"@(\w+)", lambda place: line_of[place[1]], line) for line in found]

    @contextmanager
    def only_last(self, samples: int) -> Iterator[None]:
        """Within, launches run the blocks with the last of so many samples, and few others."""
        setting = self.native.emulated_last_of_samples
        setting(ctypes.c_int64(samples))
        try:
            yield
        finally:
            setting(ctypes.c_int64(0))

    @contextmanager
    def only(self, launches: Sequence[Sequence[int]]) -> Iterator[None]:
        """Within, launches run these blocks: a list for each launch."""
        for blocks in launches:
            numbers = (ctypes.c_uint * len(blocks))(*blocks)
            self.native.emulated_only_blocks(len(blocks), numbers)
        before = self.native.emulated_launches()
        yield
        assert self.native.emulated_launches() == before + len(launches)

    @contextmanager
    def serving(self, *names: str, guards: bool = True) -> Iterator[None]:
        """Within, the CUDA backend serves CPU tensors of these operators (default: of all)."""
        self.settings()
        served = {}
        for name in names or operators():
            real = registry.load(name, "cuda")
            assert real is not None
            served[name, "cuda"] = replace(
                real,
                forward=guarded(real.forward) if guards else real.forward,
                backward=guarded(real.backward) if guards else real.backward,
                supports=lambda *_: None,
            )
        with (
            mock.patch.object(native, "require", return_value=self.module),
            mock.patch.object(native, "stream", return_value=STREAM),
            mock.patch.dict(registry._implementations, served),
            use_backend("cuda"),
        ):
            yield

    @contextmanager
    def rehearsing(self) -> Iterator[list[Launch]]:
        """Within, launches run nothing, whatever their size; the list is complete at the end."""
        found: list[Launch] = []
        self.native.emulated_rehearsal(1)
        try:
            yield found
        finally:
            self.native.emulated_rehearsal(0)
        places = self._symbols
        start = next(place for place, name in places.items() if name == "emulated_rehearsal")
        numbers = (ctypes.c_int64 * 6)()
        for i in range(self.native.emulated_launched(ctypes.c_int64(1 << 62), numbers)):
            self.native.emulated_launched(ctypes.c_int64(i), numbers)
            distance, *rest = numbers
            found.append(Launch(places[start + distance], *rest))

    @cached_property
    def _symbols(self) -> dict[int, str]:
        command = ["nm", "--defined-only", str(self.path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        lines = [line.split() for line in done.stdout.splitlines()]
        return {int(place, 16): name for place, kind, name in lines if kind in "tT"}

    def call(self, name: str, *arguments: Any) -> None:
        """A function of the native module, as native.launch calls it."""
        with mock.patch.object(native, "require", return_value=self.module):
            native.launch(name, getattr(self.module, f"{name}_cuda"), *arguments, STREAM)

    def dual_squeeze(
        self,
        x: Tensor,
        iterations: int,
        grads: tuple[Tensor, Tensor],
        side: str | None = None,
        saves_gram: bool | None = None,
        *,
        features_in: Callable[..., Tensor] | None = None,
        gram_rows: int | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """first, second, gradient, mean, trace, gram of x (B, D, N), each written by the kernels.

        side and saves_gram override the plan. For tests of the tests, features_in gives other
        memory for x and its gradient, and gram_rows the gram matrix too few rows.
        """
        batch, channels, positions = x.shape
        memory = Guarded()
        empty = memory.empty if features_in is None else features_in
        x = memory.copy(x, empty)
        plan = dual_squeeze_plan(channels, positions, iterations, DTYPE_NAMES[x.dtype], "cuda")
        plan = replace(
            plan,
            side=plan.side if side is None else side,
            saves_gram=plan.saves_gram if saves_gram is None else saves_gram,
        )
        with mock.patch.object(native, "require", return_value=self.module):
            shape = structs.dual_squeeze_shape(x, plan)
        n = (channels if plan.side == "channels" else positions) if plan.saves_gram else 0
        wide = accumulation_dtype(x.dtype)
        first, second = (memory.new(batch, channels, dtype=x.dtype) for _ in range(2))
        mean, trace = memory.new(batch, channels, dtype=wide), memory.new(batch, dtype=wide)
        gram = memory.new(batch, n if gram_rows is None else gram_rows, n, dtype=wide)
        saved = mean, trace, gram
        workspace = self.module.dual_squeeze_workspace_cuda
        scratch = memory.new(workspace(shape, False), dtype=torch.uint8)
        self.call("dual_squeeze_forward", shape, x, first, second, *saved, scratch)
        memory.check()
        grad_first, grad_second = (memory.copy(g.contiguous()) for g in grads)
        grad_x = empty(tuple(x.shape), x.stride(), x.dtype)
        scratch = memory.new(workspace(shape, True), dtype=torch.uint8)
        upstream = grad_first, grad_second
        self.call("dual_squeeze_backward", shape, *upstream, x, *saved, grad_x, scratch)
        memory.check()
        return first, second, grad_x, *saved
