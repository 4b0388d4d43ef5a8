"""What is built and what will be used, in a few lines; `ccdn_ops.report` explains why."""

from __future__ import annotations

import importlib.util
import platform
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

import torch

from ccdn_ops._version import __version__
from ccdn_ops.backends import compiled, native, registry
from ccdn_ops.report import OPERATORS, explain_usual


def summary() -> str:
    """At most 15 lines: versions, kernels, devices, and the backend of every operator."""
    lines = [
        f"ccdn {__version__}, torch {torch.__version__}, Python {platform.python_version()},"
        f" {platform.system()} {platform.machine()}",
        *_native_lines(),
        f"Triton          {_triton()}",
        f"CUDA device     {_device()}",
    ]
    if registry.override():
        lines.append(f"asked for       {registry.override()} (CCDN_OPS_BACKEND)")
    lines.append(f"used on cpu     {_used('cpu')}")
    if torch.cuda.is_available():
        lines.append(f"used on cuda    {_used('cuda')}")
    return "\n".join([*lines, "More: ccdn ops -v"])


def _native_lines() -> list[str]:
    module = native.module()
    if module is None:
        return [f"native module   none. {native.why_missing()}."]
    pool = "torch's thread pool" if module.has_parallel_for() else "serial: torch has no pool"
    cuda = f"none. {native.why_no_cuda_kernels()}."
    if module.cuda_archs:
        archs = ", ".join(f"sm_{arch}" for arch in module.cuda_archs)
        cuda = f"{archs}, PTX of sm_{module.cuda_ptx}"
    return [
        f"native module   built with compiler {module.compiler}",
        f"CPU kernels     {_isa(module)}, {pool}",
        f"CUDA kernels    {cuda}",
        f"direct calls    {_direct()}",
    ]


def _direct() -> str:
    if compiled.module() is not None:
        return f"C++, built for torch {torch.__version__}"
    return f"Python; {compiled.why_missing()} (CCDN_TORCH=on)"


def _isa(module: ModuleType) -> str:
    """The instruction set whose kernels run; older modules do not report it."""
    if not hasattr(module, "cpu_isa"):
        return "of an unknown instruction set (build the module again)"
    return str(module.cpu_isa())


def _triton() -> str:
    if importlib.util.find_spec("triton") is None:
        return "not installed"
    try:
        return version("triton")
    except PackageNotFoundError:
        return "installed, of unknown version"


def _device() -> str:
    if not torch.cuda.is_available():
        return "none that torch sees"
    return torch.cuda.get_device_name()


def _used(device: str) -> str:
    """The backends of typical calls, each with its operators if they differ."""
    found: dict[str, list[str]] = {}
    for operator in OPERATORS:
        found.setdefault(explain_usual(operator, device).backend, []).append(operator)
    if len(found) == 1:
        return f"{next(iter(found))} for every operator"
    return "; ".join(f"{backend} for {', '.join(names)}" for backend, names in found.items())
