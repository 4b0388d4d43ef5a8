"""The operators of the Triton backend on CPU tensors, by the compiled form of every kernel.

Within `executed()` a launch compiles its kernel to TTIR as for a device, takes that device's blocks
and runs what was compiled (ttir.py). For processes without TRITON_INTERPRET.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any
from unittest import mock

import compile_triton
import numpy as np
import ttir
from compile_triton import Launch, specialise
from torch import Tensor

import ccdn_ops
from ccdn_ops.backends import registry
from ccdn_ops.backends.triton import launcher

NUMBERS = {"i32": np.int32, "i64": np.int64, "fp32": np.float32}


@cache
def kernel_of(launch: Launch, arch: int) -> ttir.Kernel:
    return ttir.compiled(compile_triton.ttir(launch, arch))


def passed(kind: Any, value: Any) -> list[Any]:
    """What of an argument the compiled kernel takes: tuples flattened, constants left out."""
    if isinstance(kind, tuple):
        return [x for pair in zip(kind, value, strict=True) for x in passed(*pair)]
    if kind == "constexpr":
        return []
    return [value if isinstance(value, Tensor) else NUMBERS[kind](value)]


@contextmanager
def executed(arch: int = 90) -> Iterator[Counter[str]]:
    """Operators are served so, as on a device of this architecture; counts each kernel's launches.

    Kernels are called "operator.kernel".
    """
    assert not launcher.interpreted()
    launched = Counter[str]()

    def launch(kernel: Any, programs: Any, *arguments: Any, **options: Any) -> None:
        grid = (programs,) if isinstance(programs, int) else programs
        if 0 in grid:
            return
        found = specialise(kernel, arguments, options)
        launched[f"{found.operator}.{found.name}"] += 1
        kinds = [kind for _, kind in found.signature]
        given = [x for pair in zip(kinds, arguments, strict=False) for x in passed(*pair)]
        kernel_of(found, arch)(grid, given)

    implementations = {}
    for record in compile_triton.RECORDS:
        found = registry.load(record.name, "triton")
        assert found is not None
        implementations[record.name, "triton"] = replace(found, supports=lambda *_: None)
    with (
        mock.patch.object(launcher, "launch", launch),
        mock.patch.object(launcher, "architecture", return_value=arch // 10),
        mock.patch.dict(registry._implementations, implementations),
        ccdn_ops.use_backend("triton"),
    ):
        yield launched
