"""The launches of every operator's calls, as the host code of csrc/cuda makes them.

It runs that code compiled for the CPU (tests/ops/cuda_emulation) and lists the launches instead of
running them, so shapes may be as large as on a device. It needs g++ and a minute or two of one
core, but no device.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from cubin import demangled
from gpu_targets import SUITES, Shape
from torch import Tensor

from ccdn_ops.ops.operator import OPERATORS

ROOT = Path(__file__).resolve().parents[1]


class Launch(NamedTuple):
    """Of a kernel: blocks, threads of a block, blocks of a cluster, bytes of dynamic memory.

    overlaps: 1 where it may begin before the launch before it has ended.
    """

    kernel: str
    blocks: int
    threads: int
    cluster: int
    bytes: int
    overlaps: int = 0


class Call(NamedTuple):
    """One pass of an operator over a shape of gpu_targets.py."""

    operator: str
    shape: Shape
    dtype: str
    backward: bool

    def __str__(self) -> str:
        size = "x".join(map(str, self.shape))
        return f"{self.operator} {size} {self.dtype} {'backward' if self.backward else 'forward'}"

    @classmethod
    def of(cls, text: str) -> Call:
        operator, size, dtype, direction = text.split()
        return cls(operator, tuple(map(int, size.split("x"))), dtype, direction == "backward")


def calls() -> list[Call]:
    """Both passes of every shape of every suite; of covariance_pool in bfloat16 the forward one."""
    found = []
    for name, suite in SUITES.items():
        dtype = "bfloat16" if name == "covariance_pool" else "float32"
        for shape in suite.shapes:
            directions = (False,) if name == "covariance_pool" else (False, True)
            found += [Call(suite.operator, shape, dtype, backward) for backward in directions]
    found += [
        Call("covariance_pool", (128, 256, 256), "float32", backward) for backward in (False, True)
    ]
    return list(dict.fromkeys(found))


def sizes(operator: str, shape: Shape) -> dict[str, int]:
    """What the letters of the operator's record (ccdn_ops/ops/operator.py) are in this shape."""
    with_excitations = operator in ("multi_excite", "ctm", "cocs_loss", "excitation_gates")
    b, *rest = shape
    p = rest.pop(0) if with_excitations else 1
    d, *positions = rest
    h, w = (*positions, 1, 1)[:2]
    return {"B": b, "P": p, "O": 2, "D": d, "R": max(1, d // 4), "H": h, "W": w}


def inputs(operator: str, shape: Shape, dtype: torch.dtype) -> list[Tensor]:
    """Tensors of these sizes whose numbers are never read."""
    size = sizes(operator, shape)
    each = list(OPERATORS[operator].tensors.values())
    if operator in ("newton_schulz_sqrt", "newton_schulz_roots"):
        each = ["BDD"]  # the record makes it of something narrower
    elif operator == "cocs_loss":
        each = each[:1]  # one level
    return [
        torch.empty([size[letter] for letter in letters], dtype=dtype).requires_grad_()
        for letters in each
    ]


def arranged(operator: str, tensors: Sequence[Tensor]) -> tuple[Any, ...]:
    """These tensors as the operator's arguments."""
    if operator in ("newton_schulz_sqrt", "newton_schulz_roots", "cocs_loss"):
        return tuple(tensors)
    return OPERATORS[operator].arrange(*tensors)


def emulation() -> Any:
    """The CUDA kernels' host code, compiled for the CPU into a folder that is left to the system.

    Raises RuntimeError where g++ or objcopy is missing.
    """
    sys.path.insert(0, str(ROOT / "tests" / "ops"))
    import cuda_emulation

    if cuda_emulation.compiler() is None:
        raise RuntimeError("the launches are listed by csrc/cuda compiled with g++: none is here")
    folder = Path(tempfile.mkdtemp(prefix="ccdn-launches-"))
    return cuda_emulation.Emulation(cuda_emulation.build(folder))


def launches(emulated: Any, wanted: Sequence[Call]) -> dict[Call, list[Launch]]:
    """What every call launches, in order."""
    found: dict[Call, list[Launch]] = {}
    fills = torch.utils.deterministic.fill_uninitialized_memory
    torch.utils.deterministic.fill_uninitialized_memory = False  # the contents are never read
    try:
        for operator, shape, dtype in dict.fromkeys(call[:3] for call in wanted):
            leaves = inputs(operator, shape, getattr(torch, dtype))
            with emulated.serving(guards=False):
                with emulated.rehearsing() as forward:
                    outputs = OPERATORS[operator].function(*arranged(operator, leaves))
                outputs = (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
                upstream = [torch.empty_like(y) for y in outputs]
                with emulated.rehearsing() as backward:
                    torch.autograd.grad(outputs, leaves, upstream)
            for listed, is_backward in ((forward, False), (backward, True)):
                found[Call(operator, shape, dtype, is_backward)] = [
                    Launch(demangled(one.symbol), *one[1:]) for one in listed
                ]
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = fills
    return {call: found[call] for call in wanted}
