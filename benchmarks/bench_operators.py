"""Every operator that has no bench_NAME.py of its own, on the example of its record, in float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import best_eager
import pytest
import torch
from cases import Case, Row, work

from ccdn_ops.ops.operator import OPERATORS

SIZES = {"B": 16, "P": 4, "O": 2, "D": 256, "R": 64, "H": 16, "W": 16}
OWN = {path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py")}
# Those that are nothing but parts are measured as their parts.
OTHERS = sorted(name for name, record in OPERATORS.items() if record.schema and name not in OWN)


def case_of(name: str, sizes: dict[str, int] = SIZES) -> Case:
    """Its best eager form, too, where benchmarks/best_eager has one."""
    record, random = OPERATORS[name], torch.Generator().manual_seed(0)
    tensors = [
        torch.randn([sizes[letter] for letter in letters], generator=random).requires_grad_()
        for letters in record.tensors.values()
    ]
    first = next(x for x in torch.utils._pytree.tree_leaves(record.arrange(*tensors)))
    arguments = {"excitations": sizes["P"], "orders": sizes["O"], "hidden": sizes["R"]}
    return Case(
        name,
        {letter: sizes[letter] for letter in dict.fromkeys("".join(record.tensors.values()))},
        tensors,
        ours=lambda *tensors: record.call(record.function, tensors),
        reference=lambda *tensors: record.call(record.reference, tensors),
        best_eager=getattr(best_eager, name, None),
        work=work(name, *first.shape, **arguments),
        samples=2 if record.samples == len(tensors) else None,
    )


if OTHERS:

    @pytest.mark.parametrize("name", OTHERS)
    def test_forward_backward(name: str, bench: Callable[[Case], Row]) -> None:
        bench(case_of(name))
