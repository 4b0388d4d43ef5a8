"""Faults that Triton's interpreter hides, planted in kernels: the compiled form reveals each.

Loop variables that the compiler does not carry are found in what it makes of the source
(loop_carries.py) and by wrong numbers; accesses outside of a tensor, threads that do not wait and
programs that meet are found where the compiled form runs (ttir.py).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from operator_rows import BY_NAME
from test_triton_compiled import check

import ccdn_ops
from ccdn_ops.backends.triton import launcher

pytest.importorskip("triton", reason="triton is not installed")
if launcher.interpreted():
    pytest.skip("TRITON_INTERPRET=1 is set", allow_module_level=True)

import compile_triton
import ttir
import ttir_numbers
from loop_carries import Loop, loops_of, not_carried

PACKAGE = Path(ccdn_ops.__file__).resolve().parent


class Fault(NamedTuple):
    """Changes of a kernel's source, and an operator and sizes that use it."""

    file: str
    changes: tuple[tuple[str, str], ...]
    operator: str
    size: str
    name: str = ""  # of the variable that is not carried


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Fault], None]:
    """Puts a fault into the kernels that launches find."""
    original = launcher.kernels

    def plant(fault: Fault) -> None:
        source = Path(str(original(fault.file).__file__)).read_text()
        for right, wrong in fault.changes:
            assert source.count(right) == 1, right
            source = source.replace(right, wrong)
        path = tmp_path / f"{fault.file}_kernels.py"
        path.write_text(source)
        specification = importlib.util.spec_from_file_location(f"planted.{path.stem}", path)
        assert specification is not None
        assert specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        monkeypatch.setattr(
            launcher, "kernels", lambda name: module if name == fault.file else original(name)
        )

    return plant


def carries(operators: list[str]) -> tuple[set[Loop], list[str]]:
    """The loops that the operators' kernels have, and what is not carried in them."""
    seen: set[Loop] = set()
    faults: list[str] = []
    for record in compile_triton.RECORDS:
        if record.name in operators:
            for shape in compile_triton.SHAPES[:2]:
                x = compile_triton.features(torch.float32, shape, False)
                for launch in compile_triton.recorded(90, partial(compile_triton.call, record, x)):
                    loops, wrong = not_carried(compile_triton.parse(launch, 90))
                    seen |= loops
                    faults += wrong
    return seen, faults


def test_every_loop_carries_what_it_changes() -> None:
    seen, faults = carries([record.name for record in compile_triton.RECORDS])
    assert not faults
    files = sorted(PACKAGE.rglob("*_kernels.py"))
    assert seen == {loop for file in files for loop in loops_of(str(file))}


LOOP_OF_EXCITE = """    for _ in range(0, excitations):
        gate = tl.load(gates, mask=d < channels"""
# Right in Python, where each variable is one of its own: `late` is what another was a round before.
NOT_CARRIED = [
    Fault(
        "dual_squeeze",
        (
            ("    last = rows\n", "    last = rows\n    before = rows\n"),
            ("tl.load(last - n + i, mask=(i < n) & (j > 1)", "tl.load(before + i, mask=i < n"),
            ("        last += n\n", "        before = last\n        last += n\n"),
        ),
        "second_order_squeeze",
        "channels",
        "before",
    ),
    Fault(
        "dual_squeeze",
        (
            ("    for _ in range(0, pairs):\n", "    late = left\n    for r in range(0, pairs):\n"),
            (
                "        left_j = tl.load(left + j",
                "        left_j = tl.load(late + (r > 0) * n + j",
            ),
            ("        left += n\n", "        late = left\n        left += n\n"),
        ),
        "dual_squeeze",
        "positions",
        "late",
    ),
    Fault(
        "multi_excite",
        (
            (
                LOOP_OF_EXCITE,
                "    late = gates\n    for p in range(0, excitations):\n"
                "        gate = tl.load(late + (p > 0) * channels, mask=d < channels",
            ),
            (
                "        gates += channels\n        at += map_size\n",
                "        late = gates\n        gates += channels\n        at += map_size\n",
            ),
        ),
        "multi_excite",
        "positions",
        "late",
    ),
    Fault(  # numbers, read after the loop
        "features",
        (
            (
                "        total += tl.sum(value.to(tl.float64), axis=1)\n"
                "    exact = total / positions\n",
                "        late = total\n        piece = tl.sum(value.to(tl.float64), axis=1)\n"
                "        total = late + piece\n    exact = (late + piece) / positions\n",
            ),
            (
                "    total = tl.zeros([BLOCK_D], tl.float64)\n    for n0",
                "    total = tl.zeros([BLOCK_D], tl.float64)\n    late = total\n"
                "    piece = tl.zeros([BLOCK_D], tl.float64)\n    for n0",
            ),
        ),
        "covariance_pool",
        "channels",
        "late",
    ),
]


@pytest.mark.parametrize("fault", NOT_CARRIED, ids=lambda f: f"{f.file}-{f.operator}-{f.name}")
def test_a_variable_that_is_not_carried(plant: Callable[[Fault], None], fault: Fault) -> None:
    check(BY_NAME[fault.operator], fault.size, torch.float32)
    plant(fault)
    with pytest.raises(AssertionError, match=r"error [\d.e+-]+ > "):
        check(BY_NAME[fault.operator], fault.size, torch.float32)
    call = "dual_squeeze" if fault.file == "dual_squeeze" else fault.operator
    _, faults = carries([call])
    assert faults
    assert all(f"{fault.name} is not carried" in line for line in faults)


# Where the compiled form runs ---------------------------------------------------------------------

UNSAFE = [
    (
        Fault(
            "dual_squeeze",
            (("        last += n\n        tl.debug_barrier()\n", "        last += n\n"),),
            "dual_squeeze",
            "channels",
        ),
        "chebyshev_rows.*no barrier between a store to argument 2 and a load of it",
    ),
    (
        Fault(
            "cocs_loss",
            (("            tl.debug_barrier()  # what some threads", "            #"),),
            "cocs_loss",
            "channels",
        ),
        "level_losses.*no barrier between a store to",
    ),
    (
        Fault(
            "multi_excite",
            ((LOOP_OF_EXCITE, LOOP_OF_EXCITE.replace("< channels", "<= channels")),),
            "multi_excite",
            "positions",
        ),
        r"excite, .*a load at element \d+ of argument 1, which has \d+",
    ),
    (
        Fault(
            "dual_squeeze",
            (("    if tile_j <= tile_i:\n", "    if tile_j <= tile_i + 1:\n"),),
            "dual_squeeze",
            "channels",
        ),
        "gram_matrix.*two programs use one element of argument 3, and one writes it",
    ),
]


@pytest.mark.parametrize(("fault", "message"), UNSAFE, ids=[message for _, message in UNSAFE])
def test_what_may_not_be_touched(
    plant: Callable[[Fault], None], fault: Fault, message: str
) -> None:
    plant(fault)
    with pytest.raises(ttir_numbers.KernelError, match=message):
        check(BY_NAME[fault.operator], fault.size, torch.float32)


# Arithmetic of the IR -----------------------------------------------------------------------------


def test_integers_divide_towards_zero() -> None:
    a, b = np.array([7, -7, 7, -7], np.int32), np.array([2, 2, -2, -2], np.int32)
    assert ttir_numbers.divsi(a, b).tolist() == [3, -3, -3, 3]
    assert ttir_numbers.remsi(a, b).tolist() == [1, -1, 1, -1]
    large = np.int64(2**62 + 1)
    assert ttir_numbers.divsi(large, np.int64(1)) == large
    with pytest.raises(ttir_numbers.KernelError, match="by zero"):
        ttir_numbers.divsi(a, np.int32(0))


def test_bfloat16_rounds_as_torch() -> None:
    bits = torch.randint(-(2**31), 2**31, (100_000,), generator=torch.Generator().manual_seed(0))
    x = bits.to(torch.int32).view(torch.float32)
    ties = (bits.to(torch.int32) & -65536 | 0x8000).view(torch.float32)
    for numbers in (x, ties, torch.tensor([0.0, -0.0, float("inf"), float("nan")])):
        found = torch.from_numpy(np.atleast_1d(ttir_numbers.round_bf16(numbers.numpy())))
        wanted = numbers.to(torch.bfloat16).float()
        assert torch.equal(found.nan_to_num(7.0), wanted.nan_to_num(7.0))
        assert torch.equal(found.isnan(), wanted.isnan())


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("dense<1.5>", "f32", 1.5),
        ("dense<0x7F800000>", "f32", float("inf")),
        ("0xFFF0000000000000", "f64", -float("inf")),
        ("dense<0x7F80>", "bf16", float("inf")),
        ("-3", "i64", -3),
        ("dense<true>", "i1", True),
    ],
)
def test_constants(text: str, kind: str, expected: float) -> None:
    found = ttir.constant(text, kind)
    assert found == expected
    assert found.dtype == ttir_numbers.DTYPES[kind]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("%1 = math.fancy %0 : f32", "math.fancy of Triton's IR"),
        ("%1 = arith.mulf %0, %0 : bf16", "arith.mulf of bfloat16"),
        ("%1 = arith.truncf %0 : f64 to bf16", "f64 to bf16"),
        ("%1 = arith.cmpi ult, %0, %0 : i32", "unsigned"),
        ("%1 = arith.extsi %0 : i1 to i32", "arith.extsi of i1"),
    ],
)
def test_what_is_not_known_is_an_error(line: str, message: str) -> None:
    with pytest.raises(NotImplementedError, match=message):
        ttir.compiled(
            "module {\n  tt.func public @k(%0: f32) attributes {noinline = false} {\n"
            f"    {line}\n    tt.return\n  }}\n}}\n"
        )((1,), [np.float64(1)])
