"""torch.utils.flop_counter.FlopCounterMode counts our operators, with the numbers of explain().

PyTorch's counter copies one table of formulas. Its module imports triton if that is installed,
which would slow down `import ccdn_ops`. So our formulas are added when that module is imported.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch

import ccdn_ops.ops  # noqa: F401  (defines torch.ops.ccdn)
from ccdn_ops.ops.raw import OPERATIONS

COUNTER = "torch.utils.flop_counter"


def count_our_operators() -> None:
    """Register the formulas: now if the counter is imported already, else when it is."""
    if COUNTER in sys.modules:
        _register(importlib.import_module(COUNTER))  # waits for a thread that is importing it
    # Before the finders of files; it is asked for a module that is loaded anew, too.
    sys.meta_path.insert(0, _AfterImport())


def _register(counter: ModuleType) -> None:
    for name, operations in OPERATIONS.items():
        target = getattr(torch.ops.ccdn, name)
        if target not in counter.flop_registry:
            counter.register_flop_formula(target, get_raw=True)(_formula(operations))


def _formula(operations: Callable[..., int]) -> Callable[..., int]:
    def formula(*args: Any, out_val: Any = None, **kwargs: Any) -> int:
        return operations(*args, **kwargs)

    return formula


class _AfterImport(MetaPathFinder):
    """Finds the counter as the other finders do, and registers when it has been executed."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != COUNTER:
            return None
        others = [f for f in sys.meta_path if not isinstance(f, _AfterImport)]
        specs = (f.find_spec(name, path, target) for f in others if hasattr(f, "find_spec"))
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                _register(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
