"""Triton's interpreter, made to work with numpy 2.4.

`range(0, n)` in a kernel asks a scalar for its __index__, which Triton 3.6 answers with int() of an
array of one entry; numpy 2.4 refuses that. Later versions of Triton answer as below.
"""

from __future__ import annotations

import threading
from typing import Any

from triton.runtime import interpreter

_repairing = threading.Lock()


def repair_scalar_index() -> None:
    """Let kernels of the interpreter use scalars as bounds of loops, whatever numpy's version."""
    with _repairing:
        if not getattr(interpreter._patch_lang_tensor, "repaired", False):
            _repair()


def _repair() -> None:
    original = interpreter._patch_lang_tensor

    def patch(tensor: Any, scope: Any) -> None:
        original(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    patch.repaired = True  # type: ignore[attr-defined]
    interpreter._patch_lang_tensor = patch
