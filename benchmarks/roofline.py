"""What this machine can do, measured in the run that uses it: copying memory, multiplying matrices.

The roofline time of a row is the longer of moving its bytes and doing its operations at these
rates. The copy has the row's own size, so that small rows are held against the cache that they
live in, and not against the memory that they never see.
"""

from __future__ import annotations

import time
from functools import cache

import torch
from timing import CLOCKS, Function

LARGEST_COPY = 1 << 28
MATRIX = 1536


def bandwidth(moved: int, device: str = "cpu") -> float:
    """Bytes a second, read and written, of a copy that moves about `moved` bytes in all."""
    size = 1 << max(12, min(moved, LARGEST_COPY).bit_length() - 1)
    return _bandwidth(size, device, torch.get_num_threads())


@cache
def _bandwidth(size: int, device: str, threads: int) -> float:
    source = torch.ones(size // 8, device=device)
    target = torch.empty_like(source)
    return size / _fastest(lambda: target.copy_(source), device)


def matrix_rate(dtype: torch.dtype, device: str = "cpu") -> float:
    """Multiplications and additions a second of a large matrix product in this dtype."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return _matrix_rate(wide, device, torch.get_num_threads())


@cache
def _matrix_rate(dtype: torch.dtype, device: str, threads: int) -> float:
    a = torch.ones(MATRIX, MATRIX, dtype=dtype, device=device)
    out = torch.empty_like(a)
    return 2 * MATRIX**3 / _fastest(lambda: torch.mm(a, a, out=out), device)


def _fastest(function: Function, device: str, seconds: float = 0.3) -> float:
    clock = CLOCKS[device]
    function()
    calls = max(1, min(100, int(1e-3 / max(clock(function, 1), 1e-7))))
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        best = min(best, clock(function, calls))
    return best
