"""The backward pass of a reference operator: autograd through its literal forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def gradients(
    function: Callable[..., Any], inputs: Sequence[Tensor], grads: Sequence[Tensor | None]
) -> tuple[Tensor, ...]:
    """The gradients of the inputs through function(*inputs), one or several tensors.

    grads holds the gradient of each output, or None. An input that no output depends on gets a zero
    gradient.
    """
    with _recording(), torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in inputs]
        outputs = function(*leaves)
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        reached = [(o, g) for o, g in zip(outputs, grads, strict=False) if g is not None]
        return torch.autograd.grad(
            [o for o, _ in reached],
            leaves,
            [g for _, g in reached],
            allow_unused=True,
            materialize_grads=True,
        )


@contextmanager
def _recording() -> Iterator[None]:
    """Makes autograd record inside an operator's kernel.

    A kernel may run below autograd (under a dispatch mode, for instance). There the dispatch keys
    of autograd are excluded, and enable_grad alone would do nothing.
    """
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.AutogradFunctionality)
    keys = keys.add(torch._C.DispatchKey.ADInplaceOrView)
    excluded = torch._C._dispatch_tls_local_exclude_set() - keys
    with torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), excluded):
        yield
