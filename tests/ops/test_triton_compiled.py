"""The compiled form of every Triton kernel, run on the CPU with a device's blocks.

The interpreter runs a kernel's Python, the device what was compiled from it. Here the compiled form
runs (ttir.py) and is judged against the float64 reference, as the kernels of every backend are.
test_triton_faults.py puts faults into kernels and sees them found.

The quick rows are two sizes (each side of D = N) x two types x two layouts, because Triton compiles
another kernel for each; the full grid, slow, adds float16, other strides and other architectures.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from harness import Judge, features, laid_out
from operator_rows import BY_NAME, OPERATORS, Operator, row, served_by, step
from test_triton import jitted
from torch import Tensor

import ccdn_ops
from ccdn_ops.backends.triton import launcher
from ccdn_ops.ops.operator import OPERATORS as RECORDS

pytest.importorskip("triton", reason="triton is not installed")
if launcher.interpreted():
    pytest.skip("TRITON_INTERPRET=1 is set", allow_module_level=True)

from compiled_triton import executed

# By channels and by positions, a tile and more than one, multiples of 16 and none, and ones, which
# Triton makes constants.
SIZES = {
    "channels": {"B": 2, "P": 2, "D": 70, "R": 66, "H": 5, "W": 15},
    "positions": {"B": 2, "P": 4, "D": 130, "R": 33, "H": 5, "W": 13},
    "aligned": {"B": 2, "P": 4, "D": 64, "R": 16, "H": 8, "W": 16},
    "ones": {"B": 1, "P": 1, "D": 1, "R": 1, "H": 1, "W": 1},
}
every = pytest.mark.parametrize("operator", OPERATORS, ids=str)


def layouts(*names: str) -> list[Any]:
    """Every operator in these layouts of its maps; one without maps as it is."""
    return [
        pytest.param(operator, name, id=f"{operator}-{name}")
        for operator in OPERATORS
        for name in (names if operator.shapes[0] == "BDHW" else names[:1])
    ]


def check(
    operator: Operator, size: str, dtype: torch.dtype, layout: str = "contiguous", arch: int = 90
) -> None:
    tensors = [t.detach() for t in operator.tensors(dtype, **SIZES[size])]
    if operator.shapes[0] == "BDHW":
        batch, channels, height, width = tensors[0].shape
        maps = features("dominant", batch, channels, height * width, dtype=dtype)
        tensors[0] = maps.unflatten(2, (height, width))
    judge = Judge(operator.reference, operator.shapes, operator.outputs)
    case = judge.case(f"{operator}, {size}, {dtype}, {layout}", tensors)
    if layout != "contiguous":
        case = replace(case, tensors=[laid_out(tensors[0], layout), *tensors[1:]])
    with executed(arch) as launched:
        case.check(operator.call)
    assert launched


@pytest.mark.parametrize(("operator", "layout"), layouts("contiguous", "channels_last"))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("size", ["channels", "positions"])
def test_against_the_reference(
    operator: Operator, size: str, dtype: torch.dtype, layout: str
) -> None:
    check(operator, size, dtype, layout)


@every
@pytest.mark.parametrize("size", [pytest.param("aligned", marks=pytest.mark.check), "ones"])
def test_arguments_that_triton_specialises(operator: Operator, size: str) -> None:
    check(operator, size, torch.float32)


# More terms, products in float64 and upper triangles, which the table of operators lacks.
VARIANTS = [
    row(RECORDS["dual_squeeze"], iterations=7),
    row(RECORDS["newton_schulz_sqrt"], iterations=6),
    row(RECORDS["isqrt_cov"], iterations=6),
]


@pytest.mark.parametrize("operator", VARIANTS, ids=str)
@pytest.mark.parametrize("size", ["channels", "positions"])
def test_more_iterations(operator: Operator, size: str) -> None:
    check(operator, size, torch.float32)


@pytest.mark.parametrize("size", ["channels", "positions"])
def test_upper_triangles(size: str) -> None:
    """The rows of the whole matrix, bit for bit, and the gradient of their sum."""
    (x,) = BY_NAME["isqrt_cov"].tensors(**SIZES[size])
    rows, columns = torch.triu_indices(x.shape[1], x.shape[1])

    def cut(x: Tensor) -> Tensor:
        return ccdn_ops.isqrt_cov(x)[:, rows, columns]

    with executed():
        found = step(lambda x: ccdn_ops.isqrt_cov(x, triu=True), [x])
        wanted = step(cut, [x])
    assert found[0].equal(wanted[0])
    torch.testing.assert_close(found[1], wanted[1], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("operator", "layout"), layouts("contiguous", "channels_last", "sliced", "batch_strided")
)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_full_grid(operator: Operator, dtype: torch.dtype, size: str, layout: str) -> None:
    check(operator, size, dtype, layout)


@pytest.mark.slow
@every
@pytest.mark.parametrize("arch", [80, 100])
def test_other_architectures(operator: Operator, arch: int) -> None:
    for size in ("channels", "positions"):
        check(operator, size, torch.float32, arch=arch)


def test_every_kernel_was_run() -> None:
    """Of what `jitted` finds in the sources, so that a new kernel cannot be left out."""
    with executed() as launched:
        for operator in served_by("triton"):
            step(operator.call, operator.tensors(D=20, H=2, W=3))
    assert set(launched) == {".".join(kernel) for kernel in jitted()}
