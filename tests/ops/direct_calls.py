"""What the tests of direct calls (ccdn_ops/ops/direct.py) share.

The general way is taken under a dispatch mode, so that is what results are compared with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from ccdn_ops.backends import native
from ccdn_ops.backends.triton.launcher import interpreted

NEEDED = [
    pytest.mark.skipif(native.module() is None, reason=str(native.why_missing())),
    pytest.mark.skipif(interpreted(), reason="of the CPU backend"),
]


class Passing(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        return func(*args, **(kwargs or {}))


def generally(function: Callable[[], Any]) -> Any:
    with Passing():
        return function()
