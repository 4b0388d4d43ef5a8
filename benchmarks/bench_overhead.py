"""What a call of each operator costs around its kernels, at sizes where these take almost nothing.

A row has the native kernels alone (the calls that the backend makes, repeated with the arguments
that it prepared), a call without gradients and a forward and backward pass; beside them what
PyTorch itself needs for a bare aten operator and for a torch.autograd.Function around one, with one
output and with two. All take turns in one run and are timed by the CPU time of their thread: on a
CPU a backward pass runs in the thread that asks for it. Prints its own table, because these
baselines compute something else.
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
COLUMNS = ("kernel forward", "kernels both", "aten", "inference", "Function", "of two", "step")


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


class VarMean(torch.autograd.Function):
    """The same with two outputs, which cost more in PyTorch itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x)
        return torch.var_mean(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.mul(x, grads[0])


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

    def step() -> object:
        return torch.autograd.grad(outputs(), leaves, upstream)

    x = leaves[0]
    ones, one = torch.ones_like(x), torch.ones(())
    return {
        "kernel forward": launches(inference),
        "kernels both": launches(step),
        "aten": lambda: torch.tanh(frozen[0]),
        "inference": inference,
        "Function": lambda: torch.autograd.grad((Tanh.apply(x),), (x,), (ones,)),
        "of two": lambda: torch.autograd.grad(VarMean.apply(x), (x,), (one, one)),
        "step": step,
    }


def measured(record: Operator) -> dict[str, Timing]:
    return interleaved(of_operator(record), clock=thread, calls_in_a_row=50, seconds=2)


def table(rows: dict[str, dict[str, Timing]]) -> list[str]:
    titles = (*COLUMNS, "x aten", "x Function")
    lines = [f"{'':22}" + "".join(f"{title:>16}" for title in titles)]
    for name, row in rows.items():
        best = {column: 1e6 * row[column].best for column in COLUMNS}
        ratios = best["inference"] / best["aten"], best["step"] / best["Function"]
        numbers = [f"{value:16.1f}" for value in best.values()]
        lines.append(f"{name:22}" + "".join(numbers) + "".join(f"{r:16.2f}" for r in ratios))
    return lines


@pytest.mark.parametrize("way", ["C++", "Python"])
def test_overhead(benchmark: Any, capsys: Any, monkeypatch: Any, way: str) -> None:
    if native.module() is None:
        pytest.skip(str(native.why_missing()))
    if way == "Python":
        monkeypatch.setattr(compiled, "_module", None)
    elif compiled.module() is None:
        pytest.skip(f"direct calls in C++: {compiled.why_missing()}")
    direct.forget()
    torch.set_num_threads(1)  # a second one would only wait
    rows = {name: measured(record) for name, record in OPERATORS.items()}
    steps = of_operator(OPERATORS["dual_squeeze"])["step"]
    benchmark.pedantic(steps, rounds=20, iterations=20)
    with capsys.disabled():
        print(f"\nmicroseconds of CPU time of one call, direct calls in {way}, torch", end=" ")
        print(torch.__version__)
        print("\n".join(table(rows)))
    benchmark.extra_info.update(
        microseconds={
            name: {column: 1e6 * timing.best for column, timing in row.items()}
            for name, row in rows.items()
        }
    )
    direct.forget()
