"""Which type computations use: names of dtypes, the accumulation dtype, switching autocast off."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

DTYPE_NAMES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, else float32: the type of mean, trace and gram."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def no_autocast(device_type: str) -> AbstractContextManager[Any]:
    """Switch autocast off in the block; free if it is off already or, as on "meta", unknown."""
    if _has_autocast(device_type) and torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


def _has_autocast(device_type: str) -> bool:
    return torch.amp.is_autocast_available(device_type)


# torch.compile of torch 2.10 cannot trace it. What torch.compiler.assume_constant_result does; that
# imports all of the compiler.
_has_autocast._dynamo_marked_constant = True  # type: ignore[attr-defined]


# The structs of csrc/common/*.h. Members are given by name, all of them: a name that is missing or
# unknown is a TypeError.
