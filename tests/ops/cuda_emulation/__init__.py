"""The CUDA kernels on the CPU: csrc/cuda compiled as C++ against the headers of this folder.

`build(folder)` compiles library.cpp; `Library` calls it with torch tensors, as the module
ccdn_ops/backends/cuda/dual_squeeze.py calls the native module. Every tensor that a kernel sees lies
between guards.
"""

from __future__ import annotations

import ctypes
import mmap
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ccdn_ops.backends.native import DTYPE_CODES, DTYPE_NAMES, accumulation_dtype
from ccdn_ops.plans import dual_squeeze_plan

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
GUARD = 1 << 20  # bytes before and after a tensor that may not be touched


def compiler() -> str | None:
    return shutil.which("g++")


def build(folder: Path) -> Path:
    library = folder / "emulated.so"
    # An index outside of a shared array stops the process, which no test survives unnoticed.
    flags = ["-std=c++17", "-O2", "-fsanitize=bounds", "-fsanitize-undefined-trap-on-error"]
    # Coroutines jump between stacks, which hardened longjmp refuses. Products are fused or not as
    # the compiler likes; on the device they are fused.
    flags += ["-U_FORTIFY_SOURCE", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
    command = ["g++", *flags, "-shared", "-fPIC", f"-I{HERE}", f"-I{ROOT / 'csrc'}"]
    done = subprocess.run(
        [*command, str(HERE / "library.cpp"), "-o", str(library)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the emulated kernels do not compile:\n{done.stderr}")
    return library


class Shape(ctypes.Structure):
    """csrc/common/dual_squeeze.h: DualSqueezeShape."""

    _fields_ = (
        ("dtype", ctypes.c_int),
        ("batch", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        ("positions", ctypes.c_int64),
        ("stride_b", ctypes.c_int64),
        ("stride_d", ctypes.c_int64),
        ("stride_n", ctypes.c_int64),
        ("side", ctypes.c_int),
        ("saves_gram", ctypes.c_bool),
        ("terms", ctypes.c_int),
        ("rank", ctypes.c_int),
        ("dense_gradient", ctypes.c_bool),
        ("coefficients", ctypes.c_void_p),
    )


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
        return block[inner - size :].view(dtype).as_strided(shape, stride)

    def new(self, *shape: int, dtype: torch.dtype) -> Tensor:
        return self.empty(shape, torch.empty(shape, device="meta").stride(), dtype)

    def copy(self, x: Tensor, empty: Callable[..., Tensor] | None = None) -> Tensor:
        result = (empty or self.empty)(tuple(x.shape), x.stride(), x.dtype)
        # Of a broadcast dimension there is one copy in memory.
        narrow = [slice(None) if s else slice(0, 1) for s in x.stride()]
        result[tuple(narrow)] = x[tuple(narrow)]
        return result

    def check(self) -> None:
        assert all((front == 0xFF).all() for front in self.fronts), "a write before a tensor"


class Library:
    def __init__(self, path: Path) -> None:
        self.native = ctypes.CDLL(str(path))
        self.native.emulated_workspace.restype = ctypes.c_int64
        self.native.emulated_launches.restype = ctypes.c_int64

    def settings(self, thread_order: int = 0, largest_grid: int = 0) -> None:
        """How threads take turns (0 in order, 1 reversed, else random) and the grid's limit."""
        self.native.emulated_settings(thread_order, largest_grid)

    def call(self, name: str, shape: Shape, *tensors: Tensor) -> None:
        addresses = [ctypes.c_void_p(t.data_ptr()) for t in tensors]
        status = getattr(self.native, name)(ctypes.byref(shape), *addresses)
        if status:
            raise RuntimeError(f"{name} returned status {status}")

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
        side = plan.side if side is None else side
        saved = plan.saves_gram if saves_gram is None else saves_gram
        shape = Shape(
            DTYPE_CODES[x.dtype],
            *x.shape,
            *x.stride(),
            0 if side == "channels" else 1,
            saved,
            plan.terms,
            plan.rank,
            plan.dense_gradient,
            plan.coefficients.ctypes.data,
        )
        n = (channels if side == "channels" else positions) if saved else 0
        wide = accumulation_dtype(x.dtype)
        first, second = (memory.new(batch, channels, dtype=x.dtype) for _ in range(2))
        mean, trace = memory.new(batch, channels, dtype=wide), memory.new(batch, dtype=wide)
        gram = memory.new(batch, n if gram_rows is None else gram_rows, n, dtype=wide)
        saved_tensors = mean, trace, gram
        scratch = self._scratch(memory, shape, backward=False)
        self.call("emulated_forward", shape, x, first, second, *saved_tensors, scratch)
        memory.check()
        grad_first, grad_second = (memory.copy(g.contiguous()) for g in grads)
        grad_x = empty(tuple(x.shape), x.stride(), x.dtype)
        scratch = self._scratch(memory, shape, backward=True)
        self.call(
            "emulated_backward",
            shape,
            *(grad_first, grad_second, x, *saved_tensors, grad_x, scratch),
        )
        memory.check()
        return first, second, grad_x, *saved_tensors

    def _scratch(self, memory: Guarded, shape: Shape, *, backward: bool) -> Tensor:
        size = self.native.emulated_workspace(ctypes.byref(shape), int(backward))
        return memory.new(size, dtype=torch.uint8)
