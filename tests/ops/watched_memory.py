"""Watching what a backend allocates and where its kernels write."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ccdn_ops.backends.cpu import scratch

GUARD = 4096
CPU = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
aten = torch.ops.aten
EMPTY = (
    aten.empty.memory_format,
    aten.empty_like.default,
    aten.empty_strided.default,
    aten.new_empty.default,
    aten.new_empty_strided.default,
)


class WatchedMemory(TorchDispatchMode):
    """Within it, torch.empty and its kin, results and scratch alike, give memory between guards.

    The memory is filled with 0xFF, which is NaN in every floating type, and so are its guards;
    assert_guards_untouched says whether a kernel wrote past an end. `allocated` lists everything
    that was allocated, those as well as copies, in bytes with the operator that did it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rooms: list[Tensor] = []
        self.allocated: list[tuple[str, int]] = []

    def __enter__(self) -> WatchedMemory:
        scratch.forget()  # so that it is allocated here
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        scratch.forget()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.namespace == "ccdn":  # look inside: its kernel is written in Python
            with self:
                return func.redispatch(CPU, *args, **(kwargs or {}))
        found = func(*args, **(kwargs or {}))
        known = {_address(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor) and _address(tensor) not in known:
                size = tensor.untyped_storage().nbytes()
                self.allocated.append((str(func), size))
        return self._guarded(found) if func in EMPTY else found

    def _guarded(self, like: Tensor) -> Tensor:
        size = like.untyped_storage().nbytes()
        room = torch.full((size + 2 * GUARD,), 0xFF, dtype=torch.uint8)
        self.rooms.append(room)
        inside = room[GUARD : GUARD + size].view(like.dtype)
        return inside.as_strided(like.shape, like.stride(), inside.storage_offset())

    def assert_guards_untouched(self) -> None:
        assert self.rooms
        for room in self.rooms:
            assert (room[:GUARD] == 0xFF).all()
            assert (room[len(room) - GUARD :] == 0xFF).all()


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
