"""Compiles every Triton kernel that an operator launches, for devices that need not be there.

`python compile_triton.py [--all] 80 90 100` prints one JSON object for each cubin: kernel,
architecture, arguments, registers, stack bytes, local bytes, shared memory. Without --all it leaves
out float16 (bfloat16 is compiled), and shapes with sizes of 1 on all but the first architecture. It
runs in a process of its own, without TRITON_INTERPRET: tests/ops/test_triton_dual_squeeze.py starts
it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ccdn_ops.backends.triton import dual_squeeze

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
NAMES = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
}
# Both sides, several tiles, multiples of 16 and not, and the ones that Triton makes constants.
SHAPES = [(64, 128), (130, 65), (1, 49), (49, 1), (1, 1)]


class Launch(NamedTuple):
    kernel: Any
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    divisible: tuple[str, ...]
    warps: int

    @property
    def name(self) -> str:
        return self.kernel.fn.__name__


def specialise(kernel: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Launch:
    """What Triton's launcher makes of a call: types, 1 as a constant, multiples of 16."""
    options = dict(options)
    warps = options.pop("num_warps", 4)
    signature, constants, divisible = {}, dict(options), []
    for name, value in zip(kernel.arg_names, arguments, strict=False):
        if isinstance(value, Tensor):
            signature[name] = NAMES[value.dtype]
            divisible.append(name)
        elif value == 1:
            signature[name] = "constexpr"
            constants[name] = 1
        else:
            signature[name] = "i32" if value < 2**31 else "i64"
            if value % 16 == 0:
                divisible.append(name)
    signature.update(dict.fromkeys(options, "constexpr"))
    assert list(signature) == kernel.arg_names
    items = tuple(signature.items()), tuple(sorted(constants.items()))
    return Launch(kernel, *items, tuple(divisible), warps)


def recorded(features: Iterable[Tensor]) -> list[Launch]:
    """What dual_squeeze would launch for them, forward and backward, each once."""
    found: dict[Launch, None] = {}

    def record(sample: Any, name: str, pieces: int, *arguments: Any, **options: Any) -> None:
        found[specialise(getattr(sample.kernels, name), arguments, options)] = None

    dual_squeeze._Sample.launch = record
    for x in features:
        outputs = dual_squeeze.forward(x, 5)
        dual_squeeze.backward(outputs[0], outputs[1], x, *outputs[2:], 5)
    return list(found)


def launches(dtypes: list[torch.dtype], shapes: list[tuple[int, int]]) -> list[Launch]:
    """Both layouts of features of these types and shapes."""
    plain = [torch.randn(2, *shape).to(dtype) for dtype in dtypes for shape in shapes]
    return recorded([layout for x in plain for layout in (x, x.mT.contiguous().mT)])


def launches_on_long_tensors() -> list[Launch]:
    """Strides beyond 2^31 elements; there are no samples, so no memory behind them is needed."""
    none = torch.empty(0, dtype=torch.bfloat16)
    return recorded([none.as_strided((0, 64, 128), (2**38, 2**31, 1))])


def compiled(launch: Launch, arch: int) -> dict[str, Any]:
    position = {name: (i,) for i, name in enumerate(launch.kernel.arg_names)}
    source = ASTSource(
        launch.kernel,
        dict(launch.signature),
        constexprs={position[name]: value for name, value in launch.constants},
        attrs={position[name]: [["tt.divisibility", 16]] for name in launch.divisible},
    )
    target = GPUTarget("cuda", arch, 32)
    kernel = triton.compile(source, target=target, options={"num_warps": launch.warps})
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(kernel.asm["cubin"])
        tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        report = subprocess.run(
            [tool, "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    usage = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", report))
    return {
        "kernel": launch.name,
        "arch": arch,
        "types": " ".join(kind for _, kind in launch.signature),
        "constants": dict(launch.constants),
        "registers": int(usage["REG"]),
        "stack": int(usage["STACK"]),
        "local": int(usage["LOCAL"]),
        "shared": kernel.metadata.shared,
    }


def work(everything: bool, archs: list[int]) -> Iterator[tuple[Launch, int]]:
    if everything:
        every = [*launches(DTYPES, SHAPES), *launches_on_long_tensors()]
        yield from ((launch, arch) for launch in every for arch in archs)
        return
    common = launches([torch.float32, torch.bfloat16], SHAPES[:1])
    common += launches([torch.float32], SHAPES[1:2])
    rare = [*launches([torch.float32], SHAPES[2:]), *launches_on_long_tensors()]
    yield from ((launch, arch) for launch in dict.fromkeys(common) for arch in archs)
    yield from ((launch, archs[0]) for launch in rare if launch not in common)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    everything = "--all" in arguments
    for launch, arch in work(everything, [int(a) for a in arguments if a != "--all"]):
        print(json.dumps(compiled(launch, arch)), flush=True)
