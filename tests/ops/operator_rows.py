"""A row for every operator, made from its record (ccdn_ops/ops/operator.py), for tests of all.

No test lists operators. A new operator automatically gets rows in test_operators.py,
test_bad_input.py, test_explain.py, and the tests of Triton, far memory, the emulated CUDA kernels
and the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from harness import Case, Judge
from torch import Tensor

from ccdn_ops.backends.triton.launcher import interpreted
from ccdn_ops.ops.operator import OPERATORS as RECORDS
from ccdn_ops.ops.operator import Operator as Record

B, P, D, R, H, W = 3, 2, 6, 2, 4, 5
# Triton's interpreter takes a second for 29 Chebyshev terms; a few terms show as much.
ITERATIONS = 2 if interpreted() else 5


@dataclass(frozen=True)
class Operator:
    """One public function, as tests call it.

    shapes      of its tensors, in the symbols of `sizes`
    outputs     the axes of what the reference gives; L levels
    samples     how many of the first tensors begin with the batch, whose samples are independent;
                0 where they are not
    call, reference   from those tensors to the public function and to the literal one
    raw         from those tensors to (inputs, options) of torch.ops.ccdn.<name>, and how many of
                its outputs are public; None where the function has no raw operator of its own
    maps        how many tensors of x's size a forward and backward pass makes
    """

    name: str
    shapes: Sequence[str]
    outputs: Sequence[str]
    call: Callable[..., Any]
    reference: Callable[..., Any]
    samples: int = 1
    raw: Callable[..., tuple[Sequence[Any], Sequence[Any]]] | None = None
    public: int = 1
    maps: int = 1
    sizes: dict[str, int] = field(
        default_factory=lambda: {"B": B, "P": P, "O": 2, "D": D, "R": R, "H": H, "W": W}
    )

    def __str__(self) -> str:
        return self.name

    def tensors(
        self, dtype: torch.dtype = torch.float32, seed: int = 0, **sizes: int
    ) -> list[Tensor]:
        random = torch.Generator().manual_seed(seed)
        sizes = {**self.sizes, **sizes}
        return [
            (torch.randn([sizes[s] for s in shape], generator=random, dtype=torch.float64) + 0.3)
            .to(dtype)
            .requires_grad_()
            for shape in self.shapes
        ]

    def case(self, tensors: Sequence[Tensor], what: str = "") -> Case:
        """The correct results for these tensors and their tolerances: the project's criterion.

        The upstream gradients are those of `step`.
        """
        plain = [t.detach().cpu() for t in tensors]
        grads = [upstream_of(y) for y in outputs_of(self.reference, plain)]
        judge = Judge(self.reference, self.shapes, self.outputs)
        return judge.case(f"{self.name} {what}", plain, grads)


def row(record: Record, **changed: Any) -> Operator:
    """The record's operator with the example's options, or changed ones."""
    options = {"iterations": ITERATIONS, **changed}

    def caller(function: Callable[..., Any]) -> Callable[..., Any]:
        # All that is looked up is looked up here, because torch.compile traces what it returns.
        arrange, own = record.arrange, record.public_options(function, **options)
        return lambda *tensors: function(*arrange(*tensors), **own)

    def raw(*tensors: Tensor) -> tuple[Sequence[Any], Sequence[Any]]:
        return record.raw(tensors, **options)

    return Operator(
        record.name,
        list(record.tensors.values()),
        record.results,
        caller(record.function),
        caller(record.reference),
        record.samples,
        raw if record.schema else None,
        record.outputs,
        record.maps,
    )


OPERATORS = [row(record) for record in RECORDS.values()]
BY_NAME = {operator.name: operator for operator in OPERATORS}


def served_by(backend: str) -> list[Operator]:
    """Those that the backend has, as a whole or in parts."""
    return [operator for operator in OPERATORS if RECORDS[operator.name].has(backend)]


def outputs_of(call: Callable[..., Any], tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    found = call(*tensors)
    return (found,) if isinstance(found, Tensor) else tuple(found)


def step(call: Callable[..., Any], tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The outputs and, for upstream gradients that differ from number to number, the gradients."""
    outputs = outputs_of(call, tensors)
    upstream = [upstream_of(y) for y in outputs]
    return (*(y.detach() for y in outputs), *torch.autograd.grad(outputs, tensors, upstream))


def upstream_of(y: Tensor) -> Tensor:
    """Made where y is: a copy from the host could not be captured in a CUDA graph."""
    line = torch.linspace(0.5, 2, y.numel(), dtype=torch.float64, device=y.device)
    return line.to(y.dtype).view(y.shape).cos()


def assert_equal(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == b.dtype
        assert a.equal(b)


# A single tensor that is not what an operator can take --------------------------------------------


def arguments() -> dict[str, tuple[Tensor, Callable[[Any], Any]]]:
    """Of every operator every tensor argument: a good value, and a call with another one.

    Those of an operator with several are called "operator, tensor".
    """
    found: dict[str, tuple[Tensor, Callable[[Any], Any]]] = {}
    for operator in OPERATORS:
        record = RECORDS[operator.name]
        arranged = record.arrange(*(t.detach() for t in operator.tensors()))
        given, spec = torch.utils._pytree.tree_flatten(arranged)
        for position, (name, good) in enumerate(zip(record.tensors, given, strict=True)):
            called = f"{operator}, {name}" if len(given) > 1 else operator.name
            found[called] = good, partial(_call_with, record.function, given, spec, position)
    return found


def _call_with(
    function: Callable[..., Any], given: Sequence[Tensor], spec: Any, position: int, other: Any
) -> Any:
    changed = [*given[:position], other, *given[position + 1 :]]
    return function(*torch.utils._pytree.tree_unflatten(changed, spec))
