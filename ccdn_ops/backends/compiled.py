"""The module of direct calls in C++ (csrc/torch), compiled for one version of torch.

It is optional: without it, direct calls are Python (ccdn_ops/ops/recent.py and
ccdn_ops/backends/cpu/binding.py). setup.py builds it with CCDN_TORCH=on.
"""

from __future__ import annotations

import importlib.util
from types import ModuleType

import torch

from ccdn_ops.backends import native
from ccdn_ops.names import PACKAGE, direct_module


def _imported() -> tuple[ModuleType | None, str | None]:
    name = f"{PACKAGE}.{direct_module(torch.__version__)}"
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None or spec.loader is None:
        return None, f"not built for torch {torch.__version__}"
    if native.module() is None:
        return None, "it needs ccdn_ops._C"
    try:
        native.check_whole(spec.origin)
        found = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found)
        native.check_interface(found)
    except ImportError as error:
        return None, str(error)
    return found, None


_module, _why = _imported()


def module() -> ModuleType | None:
    """The module, or None if there is none for this torch."""
    return _module


def why_missing() -> str | None:
    """Why there is none; None if there is one."""
    return _why
