"""What a call of each operator costs around its kernels, at sizes where these take almost nothing.

A row has the native kernels alone (the calls that the backend makes, repeated with the arguments
that it prepared, and with what a call of them from Python takes), a call without gradients and a
forward and backward pass. Beside them stands what PyTorch itself needs for a bare aten operator
(tanh; var_mean over the last dimension, which has two outputs and reduces, as a squeeze does) and
for a torch.autograd.Function (around tanh; with as many inputs and outputs as the operator).

All take turns in one run and are timed by the CPU time of their thread: on a CPU a backward pass
runs in the thread that asks for it. Prints its own tables, because these baselines compute
something else; the last one is that of docs/benchmarks.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from timing import Function, Timing, interleaved, thread
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from ccdn_ops.backends import compiled, native
from ccdn_ops.ops import direct
from ccdn_ops.ops.operator import OPERATORS, Operator

SIZES = {"B": 1, "P": 2, "O": 2, "D": 4, "R": 2, "H": 2, "W": 2}
COLUMNS = (
    *("kernel forward", "kernels both", "tanh", "var_mean"),
    *("inference", "Function", "alike", "step"),
)
WAYS = ("the general way", "Python", "C++")  # of the operators


class Tanh(torch.autograd.Function):
    """A Function around a single aten operator, and around another for the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.tanh(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.tanh_backward.default(grad, y)


class Alike(torch.autograd.Function):
    """The same with as many inputs and outputs as an operator has: a tanh for each output and for
    each gradient."""

    @staticmethod
    def forward(ctx: Any, outputs: int, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*inputs)
        return tuple(torch.tanh(inputs[0]) for _ in range(outputs))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return (None, *(torch.tanh(x) for x in ctx.saved_tensors))


class _Watched(TorchDispatchMode):
    """Under a mode an operator takes no short cut: it launches where the recorder sees it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def launches(function: Callable[[], object]) -> Function:
    """The native calls that `function` makes, to be made again with the same arguments."""
    calls: list[tuple[Callable[..., int], list[Any]]] = []
    kept: list[Any] = []  # what the addresses point to, in the backend's own variables, too
    launch = native.launch

    def record(operator: str, native_function: Callable[..., int], *arguments: Any) -> None:
        launch(operator, native_function, *arguments)
        kept.append((arguments, sys._getframe(1).f_locals.copy()))
        tensors = (a.data_ptr() if isinstance(a, Tensor) else a or 0 for a in arguments)
        calls.append((native_function, list(tensors)))

    with mock.patch.object(native, "launch", record), _Watched():
        function()

    def again() -> None:
        assert kept
        for native_function, arguments in calls:
            native_function(*arguments)

    return again


def example(record: Operator) -> tuple[Any, dict[str, Any]]:
    """The arguments of a call at the smallest sizes, in float32, and its options."""
    random = torch.Generator().manual_seed(0)
    tensors = [
        torch.randn([SIZES[letter] for letter in letters], generator=random)
        for letters in record.tensors.values()
    ]
    return record.arrange(*tensors), record.public_options(record.function)


def of_operator(record: Operator) -> dict[str, Function]:
    """What is timed of one operator."""
    made, options = example(record)
    leaves, spec = tree_flatten(made)
    frozen = [t.clone() for t in leaves]
    for leaf in leaves:
        leaf.requires_grad_()
    without, arguments = tree_unflatten(frozen, spec), tree_unflatten(leaves, spec)
    function = record.function

    def inference() -> object:
        return function(*without, **options)

    def outputs() -> tuple[Tensor, ...]:
        found = function(*arguments, **options)
        return (found,) if isinstance(found, Tensor) else found

    upstream = [torch.ones_like(y) for y in outputs()]
    count = len(upstream)

    def step() -> object:
        return torch.autograd.grad(outputs(), leaves, upstream)

    x = leaves[0]
    ones = torch.ones_like(x)
    return {
        "kernel forward": launches(inference),
        "kernels both": launches(step),
        "tanh": lambda: torch.tanh(frozen[0]),
        "var_mean": lambda: torch.var_mean(frozen[0], dim=-1),
        "inference": inference,
        "Function": lambda: torch.autograd.grad((Tanh.apply(x),), (x,), (ones,)),
        "alike": lambda: torch.autograd.grad(Alike.apply(count, *leaves), leaves, (ones,) * count),
        "step": step,
    }


def measured(record: Operator) -> dict[str, Timing]:
    return interleaved(of_operator(record), clock=thread, calls_in_a_row=50, seconds=1.5)


Rows = dict[str, dict[str, Timing]]


def best(row: dict[str, Timing]) -> dict[str, float]:
    """The columns in microseconds."""
    return {column: 1e6 * row[column].best for column in COLUMNS}


def ratios(us: dict[str, float]) -> dict[str, float]:
    """What is around the kernel beside aten's calls, and a step beside a Function."""
    around = us["inference"] - us["kernel forward"]
    return {
        "around": around,
        "x tanh": around / us["tanh"],
        "x var_mean": around / us["var_mean"],
        "x Function": us["step"] / us["Function"],
        "x alike": us["step"] / us["alike"],
    }


def table(rows: Rows) -> list[str]:
    lines = []
    for name, row in rows.items():
        us = best(row)
        numbers = {**us, **ratios(us)}
        if not lines:
            lines.append(f"{'':22}" + "".join(f"{title:>16}" for title in numbers))
        lines.append(f"{name:22}" + "".join(f"{number:16.2f}" for number in numbers.values()))
    return lines


def page(measured: dict[str, Rows]) -> list[str]:
    """The table of docs/benchmarks.md, of the rows of every way."""
    lines = [
        "| operator | kernels | without gradients: general, Python, C++ | C++ less the kernel: us, "
        "x tanh, x var_mean | forward and backward: general, Python, C++ | "
        "C++ x `Function`, x alike |",
        "|---|---|---|---|---|---|",
    ]
    for name in sorted(measured["C++"]):
        us = {way: best(measured[way][name]) for way in WAYS}
        compiled_us = us["C++"]
        found = ratios(compiled_us)
        cells = [
            f"`{name}`",
            f"{compiled_us['kernel forward']:.1f}, {compiled_us['kernels both']:.1f}",
            ", ".join(f"{us[way]['inference']:.1f}" for way in WAYS),
            f"{found['around']:.1f}, {found['x tanh']:.2f}, {found['x var_mean']:.2f}",
            ", ".join(f"{us[way]['step']:.0f}" for way in WAYS),
            f"{found['x Function']:.2f}, {found['x alike']:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    bases = {c: [best(r)[c] for r in measured["C++"].values()] for c in COLUMNS}
    for column in ("tanh", "var_mean", "Function", "alike"):
        lines.append(f"{column}: {min(bases[column]):.1f} to {max(bases[column]):.1f} us")
    return lines


_measured: dict[str, Rows] = {}


@pytest.mark.parametrize("way", WAYS)
def test_overhead(benchmark: Any, capsys: Any, monkeypatch: Any, way: str) -> None:
    if native.module() is None:
        pytest.skip(str(native.why_missing()))
    if way != "C++":
        monkeypatch.setattr(compiled, "_module", None)
    elif compiled.module() is None:
        pytest.skip(f"direct calls in C++: {compiled.why_missing()}")
    if way == "the general way":
        for name in ("__call__", "learn"):
            monkeypatch.setattr(direct.Direct, name, lambda *_: None)
    direct.forget()
    torch.set_num_threads(1)  # a second one would only wait
    rows = _measured[way] = {name: measured(record) for name, record in OPERATORS.items()}
    steps = of_operator(OPERATORS["dual_squeeze"])["step"]
    benchmark.pedantic(steps, rounds=20, iterations=20)
    with capsys.disabled():
        print(f"\nmicroseconds of CPU time of one call, by {way}, torch {torch.__version__}")
        print("\n".join(table(rows)))
        if set(_measured) == set(WAYS):
            print("\n".join(page(_measured)))
    benchmark.extra_info.update(
        microseconds={
            name: {column: 1e6 * timing.best for column, timing in row.items()}
            for name, row in rows.items()
        }
    )
    direct.forget()
