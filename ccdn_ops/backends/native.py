"""The only module that calls ccdn_ops._C, the torch-free native module.

A backend builds the arguments and calls `launch`; it holds the tensors until the call returns,
guards the device, and turns the status into an exception that names the operator.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import re
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ccdn_ops._version import __version__


def _import_native() -> tuple[ModuleType | None, ImportError | None]:
    """ccdn_ops._C: the one next to this package, else that of an installed copy of this version.

    In a clone, its own folder comes first on Python's path. So after `pip install .`, a command
    started there imports the sources and would miss what was built from them. What an older build
    has left in that folder is passed over.
    """
    beside = None
    try:
        beside = importlib.util.find_spec("ccdn_ops._C")
        if beside is not None and beside.origin is not None:
            check_whole(beside.origin)
        from ccdn_ops import _C

        check_interface(_C)
    except ImportError as error:
        missing = error
    else:
        return _C, None
    for distribution in importlib.metadata.distributions(name="ccdn"):
        if distribution.version != __version__:
            continue
        for file in distribution.files or ():
            path = str(distribution.locate_file(file))
            if beside is not None and path == beside.origin:
                continue
            if file.match("ccdn_ops/_C.*") and file.suffix != ".pyi" and os.path.exists(path):
                # pybind11 makes one module of a name: `ccdn_ops._C` may be the older one.
                name = "ccdn_ops.installed._C"
                spec = importlib.util.spec_from_file_location(name, path)
                assert spec is not None
                assert spec.loader is not None
                try:
                    check_whole(path)
                    native = importlib.util.module_from_spec(spec)
                    spec.loader.exec_module(native)
                    check_interface(native)
                except ImportError as error:
                    return None, error
                sys.modules["ccdn_ops._C"] = native
                return native, None
    return None, missing


def check_whole(path: str) -> None:
    """Raise ImportError for a truncated ELF file, as an interrupted installation leaves: loading it
    would kill the process with SIGBUS and no message.

    The section table is the last thing that a linker writes to the file.
    """
    with open(path, "rb") as file:
        head = file.read(64)
        size = file.seek(0, os.SEEK_END)
    if len(head) == 64 and head.startswith(b"\x7fELF\x02\x01"):  # 64 bits, little-endian
        (table,) = struct.unpack_from("<Q", head, 0x28)
        entry, count = struct.unpack_from("<HH", head, 0x3A)
        if size < table + entry * count:
            raise ImportError(
                f"{path} is cut short: found {size} bytes, expected {table + entry * count}"
            )


def check_interface(native: ModuleType) -> None:
    """Raise ImportError for a module from other sources, which takes other arguments."""
    found, expected = getattr(native, "interface", None), interface()
    if found != expected:
        raise ImportError(f"{native.__file__} has interface {found}, expected {expected}")


def interface() -> str:
    """The digest of the declarations that this package calls.

    csrc/bindings.py writes it into _C.pyi and into the module. Raises ImportError if it is not in
    _C.pyi.
    """
    stubs = Path(__file__).parents[1] / "_C.pyi"
    text = stubs.read_text(encoding="utf-8") if stubs.exists() else ""
    found = re.search(r'^interface: Literal\["(\w+)"\]$', text, re.MULTILINE)
    if found is None:
        raise ImportError(f'{stubs} has no line `interface: Literal["DIGEST"]`')
    return found[1]


# csrc/cpu/engine/dispatch.h
CPU_ISAS = ("base", "x86-64-v3", "x86-64-v4", "avx512-bf16")

if os.environ.get("CCDN_CPU_ISA", CPU_ISAS[0]) not in CPU_ISAS:
    raise ValueError(
        f"CCDN_CPU_ISA is {os.environ['CCDN_CPU_ISA']!r}; expected one of {', '.join(CPU_ISAS)}"
    )

_C: Any
_C, _import_error = _import_native()

# csrc/common/status.h
STATUS = {
    1: "the kernel does not serve this dtype",
    2: "the kernel was given an argument outside its limits",
    3: "torch's thread pool refused the work",
}
CUDA_ERROR = 1000


def module() -> ModuleType | None:
    """The native module, or None if it is not built."""
    return _C


def why_missing() -> str | None:
    """Why there is no native module and what to do about it; None if there is one."""
    if _C is not None:
        return None
    if isinstance(_import_error, ModuleNotFoundError) or "cannot import name" in str(_import_error):
        return (
            "ccdn_ops._C is not built: this installation was made without a C++ compiler or with "
            "CCDN_NATIVE=off. Install g++ or clang++ and run `pip install .` again"
        )
    return f"ccdn_ops._C is built but not usable ({_import_error}). Run `pip install .` again"


def why_no_cuda_kernels(device: torch.device | None = None) -> str | None:
    """Why the native CUDA kernels cannot be used (on this device); None when they can."""
    if _C is None:
        return why_missing()
    if not _C.cuda_archs:
        return (
            "ccdn_ops._C was built without CUDA kernels. Install a CUDA toolkit with nvcc and run "
            "`CCDN_CUDA=on pip install .` again"
        )
    if device is not None and device.type == "cuda":
        if not torch.cuda.is_available():
            return "torch sees no CUDA device"
        major, minor = torch.cuda.get_device_capability(device)
        if not _serves(_C.cuda_archs, _C.cuda_ptx, major, minor):
            names = ", ".join(f"sm_{arch}" for arch in _C.cuda_archs)
            return (
                f"the CUDA kernels were built for {names}, and this device is sm_{major}{minor}. "
                f"Run `CCDN_CUDA_ARCHS={major}{minor} pip install .` again"
            )
        return _why_not_on(device)
    return None


# The driver's answer for each device index; it is asked only once.
_refusals: dict[int, str | None] = {}
_asking = threading.Lock()


def _why_not_on(device: torch.device) -> str | None:
    """Why the driver would refuse every launch on the device; None if it would not."""
    index = torch.cuda.current_device() if device.index is None else device.index
    if index in _refusals:
        return _refusals[index]
    if torch.cuda.is_current_stream_capturing():
        return None  # asking may load the module, which a graph capture must not wait for
    with _asking:
        if index not in _refusals:
            with torch.cuda.device(index):
                _refusals[index] = _refusal(*require().cuda_probe())
        return _refusals[index]


def _refusal(error: int, words: str, runtime: int, driver: int) -> str | None:
    """The answer of csrc/common/probe.h as a sentence; None if all is well."""
    if error == 0:
        return None

    def named(version: int) -> str:
        return f"CUDA {version // 1000}.{version % 1000 // 10}"

    there = f"is for {named(driver)}" if driver else "is not there"
    return (
        f"the CUDA kernels were built with {named(runtime)}, the driver {there}, and they cannot "
        f"start: {words} (cudaError_t {error}). Update the driver, or build with an older toolkit: "
        "`NVCC=/path/to/nvcc pip install .`"
    )


def _serves(archs: tuple[str, ...], ptx: str, major: int, minor: int) -> bool:
    """Whether a device can run one of the cubins, or compile the PTX.

    A cubin runs on its major version from its minor version on, and PTX on everything newer. Code
    for an "a" target (90a) runs on exactly that version, for an "f" target (100f) on its major one.
    """
    for arch in (*archs, ptx):
        found = divmod(int(arch.rstrip("af")), 10)
        if found == (major, minor):
            return True
        if not arch.endswith("a") and found[0] == major and found[1] <= minor:
            return True
    return ptx.isdigit() and divmod(int(ptx), 10) <= (major, minor)


def require() -> ModuleType:
    """The native module; if it is missing, a RuntimeError with cause and cure."""
    if _C is None:
        raise RuntimeError(why_missing())
    return _C


def like_gradient(x: Tensor, grad_x: Tensor) -> Tensor:
    """x with the strides of its gradient, because the kernel writes where it reads."""
    return x if grad_x.stride() == x.stride() else torch.empty_like(x).copy_(x)


def workspace(size: int, device: torch.device) -> Tensor:
    """`size` bytes of scratch memory on the device."""
    return torch.empty(size, dtype=torch.uint8, device=device)


def launch(operator: str, function: Callable[..., int], *arguments: Any) -> None:
    """Call a native function with tensors as addresses (None as 0); raise when its status is not 0.

    The caller's tensors stay referenced by `arguments` until the call returns: an address taken
    from a temporary, such as `g.contiguous().data_ptr()` of an expanded gradient, would dangle.
    Work on CUDA tensors runs on their device; a function that takes the stream is given
    `stream(tensor)`.
    """
    addresses = [
        a.data_ptr() if isinstance(a, Tensor) else 0 if a is None else a for a in arguments
    ]
    device = next((a.device for a in arguments if isinstance(a, Tensor)), None)
    if device is not None and device.type == "cuda":
        with torch.cuda.device(device):
            status = function(*addresses)
    else:
        status = function(*addresses)
    if status:
        raise failure(operator, status)


def failure(operator: str, status: int) -> RuntimeError:
    """The error for a status that is not 0."""
    return RuntimeError(f"ccdn::{operator} failed in its native kernel: {_why(status)}")


def _why(status: int) -> str:
    if status < CUDA_ERROR:
        return f"{STATUS.get(status, 'unknown status')} ({status})"
    code = status - CUDA_ERROR
    cudart = getattr(torch._C, "_cudart", None)  # torch's, where it has CUDA
    words = f", {cudart.cudaGetErrorString(cudart.cudaError(code))}" if cudart else ""
    return f"the CUDA launch failed: cudaError_t {code}{words}"


def stream(tensor: Tensor) -> int:
    """The raw current CUDA stream of the tensor's device."""
    return torch._C._cuda_getCurrentRawStream(tensor.device.index)


def _torch_parallel_for() -> int | None:
    """The address of torch_parallel_for in the loaded libtorch_cpu, or None."""
    folder = os.path.join(os.path.dirname(torch.__file__), "lib")
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        path = os.path.join(folder, name)
        if not os.path.exists(path):
            continue
        try:
            # RTLD_NOLOAD: finds the library that torch loaded, never loads a second copy.
            library = ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
            return ctypes.cast(library.torch_parallel_for, ctypes.c_void_p).value
        except (OSError, AttributeError):
            return None
    return None


if _C is not None:
    _C.set_parallel_for(_torch_parallel_for() or 0)
