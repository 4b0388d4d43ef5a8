"""What the tests of direct calls (ccdn_ops/ops/direct.py) share.

The general way is taken under a dispatch mode, so that is what results are compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from ccdn_ops.backends import compiled, native
from ccdn_ops.backends.triton.launcher import interpreted
from ccdn_ops.ops import direct

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


@pytest.fixture(autouse=True, params=["compiled", "python"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Direct calls in C++ and in Python."""
    with monkeypatch.context() as patch:
        if request.param == "python":
            patch.setattr(compiled, "_module", None)
        elif compiled.module() is None:
            pytest.skip(f"direct calls in C++: {compiled.why_missing()}")
        direct.forget()
        yield
    direct.forget()
