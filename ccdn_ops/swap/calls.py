"""Which calls are of the kind that was tried, so that the operators serve them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad


def is_tried(x: Any, ranks: tuple[int, ...], dtypes: tuple[torch.dtype, ...]) -> bool:
    """A strided tensor of such a rank and dtype, with at least one number in each sample, outside
    of TorchScript and forward-mode differentiation."""
    return (
        isinstance(x, Tensor)
        and not torch.jit.is_tracing()
        and x.dim() in ranks
        and x.dtype in dtypes
        and x.layout is torch.strided
        and not x.is_nested
        and all(size >= 1 for size in x.shape[1:])
        and (torch.compiler.is_compiling() or forward_ad._current_level < 0)
    )


def has_numbers(x: Tensor) -> bool:
    """Whether the numbers of a tensor can be looked at, and are computed with as they are: outside
    of compilation, captured graphs, transforms and autocast."""
    return (
        not torch.compiler.is_compiling()
        and type(x) in (Tensor, nn.Parameter)  # no fake one
        and not x.is_meta
        and not (x.is_cuda and torch.cuda.is_current_stream_capturing())
        and not torch._C._are_functorch_transforms_active()
        and not torch.is_autocast_enabled(x.device.type)
    )
