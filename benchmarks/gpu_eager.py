"""The work of the baselines of gpu_targets.py on a device: the operations that PyTorch launches.

The reference runs on meta tensors, which have sizes but no data. Every operation that is not a view
is one or more kernels that read its inputs and write its outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

# These launch no kernel: they allocate memory, view it, or return a number that the host has.
FREE = {
    "alias", "as_strided", "detach", "diagonal", "empty", "empty_like", "empty_strided", "expand",
    "lift_fresh", "new_empty", "permute", "reshape", "select", "slice", "split", "squeeze", "t",
    "transpose", "unbind", "unsqueeze", "view", "_reshape_alias", "_unsafe_view", "is_same_size",
}  # fmt: skip


class Operation(NamedTuple):
    """Bytes read and written, multiplications and additions of products, whether it is one."""

    name: str
    bytes: int
    operations: int
    product: bool


class _Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[Operation] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.partition("::")[2]
        if name.rstrip("_") in FREE or name in FREE:
            return result
        tensors = [
            t for t in (*tree_leaves((args, kwargs)), *tree_leaves(result)) if isinstance(t, Tensor)
        ]
        counted = flop_registry.get(func.overloadpacket)
        flops = int(counted(*args, **(kwargs or {}), out_val=result)) if counted else 0
        # What is broadcast is read once.
        moved = sum(
            min(t.numel(), t.untyped_storage().nbytes() // t.itemsize) * t.itemsize for t in tensors
        )
        self.found.append(Operation(name, moved, flops, counted is not None))
        return result


def operations(
    literal: Callable[..., Any], inputs: Sequence[Tensor], backward: bool
) -> list[Operation]:
    """Of one call of `literal` on tensors like these, with its gradient where `backward`."""
    leaves = [
        torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta") for x in inputs
    ]
    leaves = [x.requires_grad_(backward) for x in leaves]
    with _Operations() as seen:
        found = literal(*leaves)
        found = (found,) if isinstance(found, Tensor) else tuple(found)
        if backward:
            torch.autograd.grad(found, leaves, [torch.empty_like(y) for y in found])
    return seen.found
