"""What a backend asks of torch, in order."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class WatchedCalls(TorchDispatchMode):
    """What this thread asks of torch, and the tensors of the host among the arguments.

    Numbers without dimensions do not count: they travel with a launch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.from_host: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.names.append(func._opname)
        tensors = [
            t for t in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)
        ]
        if any(t.device.type == "cpu" and t.dim() for t in tensors):
            self.from_host.append(func._opname)
        return func(*args, **(kwargs or {}))
