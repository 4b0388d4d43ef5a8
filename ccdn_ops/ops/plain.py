"""What a direct call asks before it is made: of its tensors, and of the thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad, profiler
from torch.nn import Parameter

from ccdn_ops.layout import is_aligned

# Every look-up of a name counts here.
compiling = torch.compiler.is_compiling
_dispatch_keys = torch._C._dispatch_keys
_transforms = torch._C._are_functorch_transforms_active
_tracing = torch._C._is_tracing
_function_modes = torch._C._len_torch_function_stack
_dispatch_modes = torch._C._len_torch_dispatch_stack
_profiled = torch._C._autograd._profiler_enabled


def _plain_keys() -> frozenset[int]:
    """The dispatch keys of a tensor in the CPU's memory, made within inference mode or not.

    With any other key a tensor has no such memory, or it is to be read otherwise: of another device
    or layout, a negative view, functional, mapped over, a subclass that dispatches by itself.
    """
    found = []
    for mode in (False, True):  # whatever block this is imported in
        with torch.inference_mode(mode):
            found.append(_dispatch_keys(torch.empty(0, device="cpu")).raw_repr())
    return frozenset(found)


PLAIN = _plain_keys()


def plain(x: Any) -> bool:
    """Whether x is exactly a tensor or a parameter, in the CPU's memory, its elements aligned."""
    kind = type(x)
    if (kind is not Tensor and kind is not Parameter) or _dispatch_keys(x).raw_repr() not in PLAIN:
        return False
    return is_aligned(x)


def sized(tensors: Sequence[Any]) -> bool:
    """Whether all are exactly tensors or parameters that have sizes to read, which a nested one has
    not."""
    for x in tensors:
        kind = type(x)
        if (kind is not Tensor and kind is not Parameter) or x.is_nested:
            return False
    return True


def signature(tensors: Sequence[Any]) -> tuple[Any, ...] | None:
    """Sizes, strides and dtypes of plain tensors, or None for None; None if one is not plain."""
    found: list[Any] = []
    for x in tensors:
        if x is None:
            found.append(None)
        elif plain(x):
            found += (x.shape, x.stride(), x.dtype)
        else:
            return None
    return tuple(found)


def undisturbed() -> bool:
    """Whether nobody watches or changes what this thread does, as far as torch tells."""
    return not (
        compiling()
        or _transforms()
        or _dispatch_modes()
        or _function_modes()
        or _tracing()
        or _profiled()
        or profiler._is_profiler_enabled  # by another thread, perhaps for this one too
        or forward_ad._current_level >= 0
    )
