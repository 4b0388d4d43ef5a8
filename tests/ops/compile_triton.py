"""Compiles every Triton kernel that the operators launch; needs no device.

`python compile_triton.py [--all] 80 90 100` prints one JSON object for each cubin: operator,
kernel, architecture, arguments, registers, stack bytes, local bytes, shared memory, and whether a
product of float32 is one chain of additions. Without --all it takes one type and one shape of each
kernel for all architectures, and for the first one also those in which a kernel differs, and it
parses those for one of everything; with --all every type, layout and shape for all of them. It runs
in a process of its own, without TRITON_INTERPRET: tests/ops/test_triton.py starts it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend

from ccdn_ops.backends import registry
from ccdn_ops.backends.triton import launcher
from ccdn_ops.ops.operator import OPERATORS, Operator

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
NAMES = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
}
LAUNCH_OPTIONS = ("num_warps", "num_stages", "maxnreg", "enable_fp_fusion")
# (channels, height, width): both sides, several tiles, multiples of 16 and not, and the ones that
# Triton makes constants.
SHAPES = [(64, 8, 16), (128, 8, 8), (130, 5, 13), (1, 7, 7), (49, 1, 1), (1, 1, 1)]


# What is launched ---------------------------------------------------------------------------------


class Launch(NamedTuple):
    operator: str
    kernel: Any
    signature: tuple[tuple[str, Any], ...]
    constants: tuple[tuple[tuple[int, ...], Any], ...]
    divisible: tuple[tuple[int, ...], ...]
    options: tuple[tuple[str, int], ...]

    @property
    def name(self) -> str:
        return self.kernel.fn.__name__


def specialise(kernel: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Launch:
    """What Triton's launcher makes of a call: types, 1 as a constant, multiples of 16."""
    constants: dict[tuple[int, ...], Any] = {}
    divisible: list[tuple[int, ...]] = []

    def kind(value: Any, path: tuple[int, ...]) -> Any:
        if isinstance(value, tuple):
            return tuple(kind(part, (*path, i)) for i, part in enumerate(value))
        if isinstance(value, Tensor):
            divisible.append(path)
            return NAMES[value.dtype]
        if isinstance(value, float):
            return "fp32"
        if value == 1:
            constants[path] = 1
            return "constexpr"
        if value % 16 == 0:
            divisible.append(path)
        return "i32" if value < 2**31 else "i64"

    names = kernel.arg_names
    signature = {
        name: kind(value, (i,))
        for i, (name, value) in enumerate(zip(names, arguments, strict=False))
    }
    launch_options = {k: options[k] for k in LAUNCH_OPTIONS if k in options}
    for name, value in options.items():
        if name not in launch_options:
            signature[name] = "constexpr"
            constants[names.index(name),] = value
    assert set(signature) == set(names)
    operator = launcher.operator_of(kernel.fn.__module__)
    return Launch(
        operator,
        kernel,
        tuple((name, signature[name]) for name in names),
        tuple(constants.items()),
        tuple(divisible),
        tuple(launch_options.items()),
    )


def recorded(arch: int, call: Callable[[], Any]) -> list[Launch]:
    """What a call would launch on a device of this architecture, each once."""
    found: dict[Launch, None] = {}

    def record(kernel: Any, programs: Any, *arguments: Any, **options: Any) -> None:
        options["maxnreg"] = launcher.REGISTERS
        found[specialise(kernel, arguments, options)] = None

    originals = launcher.launch, launcher.architecture
    launcher.launch, launcher.architecture = record, lambda x: arch // 10
    try:
        call()
    finally:
        launcher.launch, launcher.architecture = originals
    return list(found)


def both_passes(record: Operator, inputs: Sequence[Any], options: Sequence[Any]) -> None:
    """Forward and backward of the backend, as the operator's spec calls them."""
    backend = registry.load(record.name, "triton")
    assert backend is not None
    outputs = backend.forward(*inputs, *options)
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    public, saved = outputs[: record.outputs], outputs[record.outputs :]
    backend.backward(*public, *inputs, *saved, *options)


def features(dtype: torch.dtype, shape: tuple[int, int, int], last: bool) -> Tensor:
    memory = torch.channels_last if last else torch.contiguous_format
    x = torch.randn(2, *shape).to(dtype)
    # PyTorch calls a map of one channel or one position contiguous whatever its strides are.
    return x.to(memory_format=memory)


def call(record: Operator, x: Tensor) -> None:
    """Whatever launches each form of the operator's kernels, for features x (B, D, H, W)."""
    for inputs, options in (record.calls or partial(example_calls, record))(x):
        both_passes(record, inputs, options)


def example_calls(record: Operator, x: Tensor) -> Iterator[tuple[list[Any], list[Any]]]:
    """With one order and with two, where there are orders; everything but maps is float32."""
    b, p = (1, 1) if x.numel() == 1 else (2, 4)
    d, h, w = x.shape[1:]
    for orders in (1, 2) if any("O" in letters for letters in record.tensors.values()) else (2,):
        sizes = {"B": b, "P": p, "O": orders, "D": d, "R": max(d // 4, 1), "H": h, "W": w}
        tensors = [
            x
            if letters == "BDHW"
            else None
            if orders == 1 and name in record.second_order
            else torch.randn([sizes[letter] for letter in letters])
            for name, letters in record.tensors.items()
        ]
        inputs, options = record.raw(tensors)
        yield [x.flatten(2) if t is x and record.flat else t for t in inputs], options


# ctm has no kernel of its own but those of its parts.
RECORDS = [
    record
    for record in OPERATORS.values()
    if record.schema and registry.load(record.name, "triton") is not None
]


def launches(
    arch: int,
    dtypes: list[torch.dtype],
    shapes: list[tuple[int, int, int]],
    layouts: tuple[bool, ...],
) -> list[Launch]:
    inputs = [features(t, s, last) for t in dtypes for s in shapes for last in layouts]
    return launches_with(arch, inputs)


def launches_with(arch: int, inputs: list[Tensor]) -> list[Launch]:
    found: dict[Launch, None] = {}
    for record in RECORDS:
        for x in inputs:
            found.update(dict.fromkeys(recorded(arch, partial(call, record, x))))
    return list(found)


def launches_on_long_tensors(arch: int) -> list[Launch]:
    """Strides beyond 2^31 elements; there are no samples, so no memory behind them is needed."""
    none = torch.empty(0, dtype=torch.bfloat16)
    return launches_with(arch, [none.as_strided((0, 64, 8, 16), (2**38, 2**31, 16, 1))])


def launches_of_ones(arch: int) -> list[Launch]:
    """One of everything, so that every argument that Triton may make a constant 1 is 1."""
    return launches_with(arch, [torch.randn(1, 1, 1, 1)])


# What becomes of it -------------------------------------------------------------------------------


def source_of(launch: Launch) -> ASTSource:
    return ASTSource(
        launch.kernel,
        dict(launch.signature),
        constexprs=dict(launch.constants),
        attrs={path: [["tt.divisibility", 16]] for path in launch.divisible},
    )


def parse(launch: Launch, arch: int) -> str:
    """The first part of a compilation, which fails if a constant argument is wrong."""
    return str(_parsed(launch, arch)[0])


def ttir(launch: Launch, arch: int) -> str:
    """The kernel before the compiler assigns threads, without source locations."""
    module, backend, options = _parsed(launch, arch)
    return backend.make_ttir(module, {}, options, arch).str_nodebug()


def _parsed(launch: Launch, arch: int) -> tuple[Any, Any, Any]:
    target = GPUTarget("cuda", arch, 32)
    backend, context = make_backend(target), ir.context()
    options = backend.parse_options(dict(launch.options))
    ir.load_dialects(context)
    backend.load_dialects(context)
    functions = backend.get_codegen_implementation(options)
    source = source_of(launch)
    module = source.make_ir(target, options, functions, backend.get_module_map(), context)
    return module, backend, options


def chained(ttir: str) -> bool:
    """Whether a float32 product continues a sum: one chain of additions over all slices.

    A product in three TF32 terms does not, though it says so here: its sum is added last.
    """
    zeros = set(re.findall(r"(%\w+) = arith\.constant dense<0\.0+e\+00> : tensor<\w+xf32>", ttir))
    products = re.findall(r"tt\.dot %\w+, %\w+, (%\w+)([^:]*) : (tensor<\w+xf32>)", ttir)
    return any("tf32x3" not in options and total not in zeros for total, options, _ in products)


def compiled(launch: Launch, arch: int) -> dict[str, Any]:
    target = GPUTarget("cuda", arch, 32)
    kernel = triton.compile(source_of(launch), target=target, options=dict(launch.options))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(kernel.asm["cubin"])
        tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        report = subprocess.run(
            [tool, "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    usage = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", report))
    names = launch.kernel.arg_names
    return {
        "operator": launch.operator,
        "kernel": launch.name,
        "arch": arch,
        "types": " ".join(str(kind) for _, kind in launch.signature),
        "constants": {names[path[0]]: value for path, value in launch.constants},
        "registers": int(usage["REG"]),
        "stack": int(usage["STACK"]),
        "local": int(usage["LOCAL"]),
        "shared": kernel.metadata.shared,
        "chained": chained(kernel.asm["ttir"]),
    }


def compiled_or_error(launch: Launch, arch: int) -> dict[str, Any]:
    """What `compiled` gives, or the kernel with the compiler's error."""
    try:
        return compiled(launch, arch)
    except Exception as error:  # anything that Triton, LLVM or ptxas raises
        types = " ".join(str(kind) for _, kind in launch.signature)
        what = {"operator": launch.operator, "kernel": launch.name, "arch": arch, "types": types}
        return {**what, "error": f"{type(error).__name__}: {error}"}


def work(everything: bool, archs: list[int]) -> Iterator[tuple[Launch, int]]:
    for arch in archs:
        if everything:
            every = launches(arch, DTYPES, SHAPES, (False, True))
            every += launches_of_ones(arch) + launches_on_long_tensors(arch)
            yield from ((launch, arch) for launch in every)
            continue
        seen = set()
        for launch in launches(arch, [torch.bfloat16], SHAPES[:2], (False,)):
            # One form of each kernel for every architecture, the others for the first one.
            if arch == archs[0] or launch.name not in seen:
                yield launch, arch
            seen.add(launch.name)
    if not everything:
        for launch in launches_of_ones(archs[0]):
            parse(launch, archs[0])


if __name__ == "__main__":
    arguments = sys.argv[1:]
    everything = "--all" in arguments
    for launch, arch in work(everything, [int(a) for a in arguments if a != "--all"]):
        print(json.dumps(compiled_or_error(launch, arch)), flush=True)
