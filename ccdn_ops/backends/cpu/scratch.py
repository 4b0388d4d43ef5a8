"""Scratch memory of the native CPU kernels."""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from ccdn_ops.backends import compiled

# Scratch up to this size is kept for the thread's next call. Fresh memory costs a page fault per
# 4 KiB, which takes longer than the arithmetic when maps are small.
KEPT_SCRATCH = 64 << 20

_kept = threading.local()


def scratch_memory(size: int) -> Tensor:
    """At least `size` uninitialised bytes; the thread's next call gets the same ones."""
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
    module = compiled.module()
    if module is not None:
        module.forget()
