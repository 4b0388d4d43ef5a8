"""How the Triton backend launches: what it serves, on the device and in the interpreter.

A backend module imports its kernels, and triton with them, at the first call: `kernels("X")` is
ops/X/triton_kernels.py. Everything is launched through `launch`, one dimension of programs or two.
"""

from __future__ import annotations

import importlib
import os
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ccdn_ops.names import PACKAGE

# Registers per thread, the maximum: by default ptxas spills a few so that more threads can run.
REGISTERS = 255

# Kernels that several operators share; they are in the folder of this file.
SHARED = ("features", "matrices")


def interpreted() -> bool:
    """Whether Triton runs its kernels on the CPU; decided when triton is first imported."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def supports(x: Tensor, *options: Any) -> str | None:
    """Why these kernels cannot serve a call with this first tensor x; None if they can."""
    if x.dtype == torch.float64:
        return "the Triton kernels have no float64; use the cuda, cpu or reference backend"
    if x.device.type == "cuda":
        if not torch.cuda.is_available():
            return "torch sees no CUDA device"
        major, minor = torch.cuda.get_device_capability(x.device)
        if major < 8:
            return f"the Triton kernels need sm_80 or newer, and this device is sm_{major}{minor}"
        return None
    if x.device.type == "cpu":
        if interpreted():
            return None
        return "Triton serves CPU tensors only in its interpreter: set TRITON_INTERPRET=1"
    return f"the Triton kernels serve CUDA devices, not {x.device.type}"


def captured(device: torch.device) -> bool:
    """Whether launches on the device are being captured into a CUDA graph."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def architecture(x: Tensor) -> int:
    """The device's major compute capability; 9 (Hopper) if there is no device."""
    return torch.cuda.get_device_capability(x.device)[0] if x.is_cuda else 9


def kernels(operator: str) -> ModuleType:
    """Those of an operator or of SHARED; the first call imports triton."""
    if interpreted():
        from ccdn_ops.backends.triton.interpreter import repair_scalar_index

        repair_scalar_index()
    if operator in SHARED:
        return importlib.import_module(f"{PACKAGE}.backends.triton.{operator}_kernels")
    return importlib.import_module(f"{PACKAGE}.ops.{operator}.triton_kernels")


def operator_of(module: str) -> str:
    """The operator whose kernels the module of this name holds: the inverse of kernels()."""
    *_, folder, name = module.split(".")
    return folder if name == "triton_kernels" else name.removesuffix("_kernels")


def launch(kernel: Any, programs: int | tuple[int, int], *arguments: Any, **options: Any) -> None:
    """Run a kernel with this many programs on the device of its tensors; zero programs do nothing.

    Options are the kernel's constants and Triton's, such as num_warps.
    """
    grid = (programs,) if isinstance(programs, int) else programs
    if 0 in grid:
        return
    with _on_device_of(arguments):
        kernel[grid](*arguments, maxnreg=REGISTERS, **options)


def _on_device_of(arguments: tuple[Any, ...]) -> AbstractContextManager[Any]:
    for argument in arguments:
        tensor = argument[0] if isinstance(argument, tuple) and argument else argument
        if isinstance(tensor, Tensor):
            return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
    return nullcontext()


def blocks(extent: int, block: int) -> int:
    """How many blocks cover the extent."""
    return -(-extent // block)


def power_of_two(size: int, least: int = 1) -> int:
    """The smallest power of two that is not below either."""
    return 1 << (max(size, least) - 1).bit_length()
