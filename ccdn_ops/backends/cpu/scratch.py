"""Scratch memory of the native CPU kernels."""

from __future__ import annotations

import threading

import torch
from torch import Tensor

# Scratch up to this size is kept for the thread's next call: fresh memory costs a page fault for
# every 4 KiB, which at small maps is more than the arithmetic.
KEPT_SCRATCH = 64 << 20

_kept = threading.local()


def scratch_memory(size: int) -> Tensor:
    """At least `size` bytes of whatever; the same ones for the thread's next call."""
    kept: Tensor | None = getattr(_kept, "scratch", None)
    if kept is not None and kept.numel() >= size:
        return kept
    fresh = torch.empty(size, dtype=torch.uint8)
    if size <= KEPT_SCRATCH:
        _kept.scratch = fresh
    return fresh


def forget() -> None:
    """Drop what is kept for this thread."""
    _kept.__dict__.clear()
