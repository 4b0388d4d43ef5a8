"""Tensors beyond 2^31 elements, of which only the pages that are touched take memory.

Reading or writing all of such a tensor would take minutes and all of the memory, so a test picks
the blocks of a launch that work on its end. `check_last_sample` and the gates' cases below say
which blocks those are for a backend, and compare their results with the same numbers near the
start.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from harness import normal
from operator_rows import OPERATORS, RECORDS, Operator
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from ccdn_ops.backends import registry
from ccdn_ops.work import Call

MAP_NORESERVE = 0x4000  # Linux; newer versions of Python have it in mmap
BEYOND = 2**31


def reserved(shape: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros, in memory that a page takes when it is written."""
    if 0 in shape:
        return torch.empty(0, dtype=dtype).as_strided(shape, stride)
    extent = 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    pages = mmap.mmap(-1, extent * dtype.itemsize, flags=flags)
    return torch.frombuffer(pages, dtype=dtype, count=extent).as_strided(shape, stride)


def spread_out(x: Tensor, stride: int) -> Tensor:
    """x with its samples `stride` entries apart."""
    return reserved(tuple(x.shape), (stride, *x.stride()[1:]), x.dtype).copy_(x)


def grown(x: Tensor, size: int, dim: int = 0) -> Tensor:
    """Zeros of `size` along dim, the last of which are x."""
    shape = list(x.shape)
    shape[dim] = size
    found = reserved(tuple(shape), torch.empty(shape, device="meta").stride(), x.dtype)
    found.narrow(dim, size - x.shape[dim], x.shape[dim]).copy_(x)
    return found


class ReservedAllocations(TorchDispatchMode):
    """Within, what torch.empty and the like return is `reserved`."""

    NAMES = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs = kwargs or {}
        if func._opname not in self.NAMES:
            return func(*args, **kwargs)

        def shape_of(x: Tensor) -> Tensor:
            return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")

        args, kwargs = tree_map_only(Tensor, shape_of, (args, kwargs))
        found = func(*args, **{**kwargs, "device": "meta"})
        return reserved(tuple(found.shape), found.stride(), found.dtype)


# Operators whose samples are apart ----------------------------------------------------------------


@dataclass(frozen=True)
class FarCall:
    """A backend's two functions: shapes of a sample of the inputs and of the public outputs."""

    operator: str
    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[int, ...], ...]
    options: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return f"{self.operator} {self.inputs[0]}"


# Both sides of the matrices, for operators that have two; three steps are two at once and a single
# one, and the terms of dual_squeeze, whose launches PyTorch adds up, are many already with two.
SIDES = [
    {"B": 1, "P": 2, "D": 40, "R": 40, "H": 4, "W": 5},
    {"B": 1, "P": 2, "D": 33, "R": 33, "H": 6, "W": 8},
]
ITERATIONS = {"dual_squeeze": 2}


def far_calls(operator: Operator) -> Iterator[FarCall]:
    """With all tensors by samples; none of an operator that has others."""
    record = RECORDS[operator.name]
    if operator.raw is None or operator.samples < len(operator.shapes):
        return
    sides = set()
    for sizes in SIDES:
        tensors = [torch.empty([sizes[s] for s in letters]) for letters in operator.shapes]
        iterations = ITERATIONS.get(operator.name, 3)
        inputs, options = record.raw(tensors, iterations=iterations)
        side = record.work(inputs[0], Call(iterations)).side
        if side in sides:
            continue
        sides.add(side)
        outputs = record.call(record.reference, tensors, iterations=iterations)
        outputs = [outputs] if isinstance(outputs, Tensor) else outputs
        given = [x.flatten(2) if record.flat else x for x in inputs]
        yield FarCall(
            operator.name,
            tuple(tuple(x.shape[1:]) for x in given),
            tuple(tuple(y.shape[1:]) for y in outputs),
            tuple(options),
        )


# Operators of matrices, which their backends get contiguous.
CONTIGUOUS_MATRICES = ("newton_schulz_sqrt", "newton_schulz_roots")
FAR_CALLS = [call for operator in OPERATORS for call in far_calls(operator)]


def check_last_sample(
    backend: str, call: FarCall, only_last: Callable[[int], AbstractContextManager[None]]
) -> None:
    """The last sample of so many that the first input, and what is larger, is beyond 2^31.

    only_last(batch) must make every launch do the work of the last sample, and of few others.
    """
    serving = registry.load(call.operator, backend)
    assert serving is not None
    draw = [normal(1, *shape, seed=i) for i, shape in enumerate((*call.inputs, *call.outputs))]
    inputs, grads = draw[: len(call.inputs)], draw[len(call.inputs) :]
    if call.operator in CONTIGUOUS_MATRICES:  # which are positive semi-definite
        inputs = [x @ x.mT for x in inputs]
    batch = BEYOND // inputs[0].numel() + 2

    def both_passes(inputs: list[Tensor], grads: list[Tensor]) -> list[Tensor]:
        found = serving.forward(*inputs, *call.options)
        outputs = [found] if isinstance(found, Tensor) else list(found)
        saved = outputs[len(grads) :]
        found = serving.backward(*grads, *inputs, *saved, *call.options)
        return [*outputs, *([found] if isinstance(found, Tensor) else found)]

    near = both_passes(inputs, grads)
    with ReservedAllocations(), only_last(batch):
        far = both_passes([grown(x, batch) for x in inputs], [grown(g, batch) for g in grads])
    for a, b in zip(near, far, strict=True):
        assert b.shape[0] == batch
        assert a.isfinite().all()
        assert a.equal(b[-1:])


# excitation_gates ---------------------------------------------------------------------------------

# R and D of the far cases, and how many samples, or excitations, there are at the end.
UNITS, CHANNELS, FEW = 16, 16, 3
ORDERS = 2


@dataclass(frozen=True)
class FarGates:
    """What excitation_gates makes at the end of many samples, or of many excitations."""

    excitations: int
    batch: int

    @property
    def many_samples(self) -> bool:
        return self.batch > FEW

    def __str__(self) -> str:
        return "many samples" if self.many_samples else "many excitations"

    def check(
        self,
        backend: str,
        forward: Callable[[], AbstractContextManager[None]],
        backward: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """Within forward() and backward() launches must do what is at the end, and little else."""
        serving = registry.load("excitation_gates", backend)
        assert serving is not None
        p, o, r, d = 1, ORDERS, UNITS, CHANNELS
        squeezes = [normal(FEW, d, seed=i) for i in range(2)]
        weights = [
            normal(p, o, *shape, seed=2 + i) for i, shape in enumerate(((r, d), (r,), (d, r), (d,)))
        ]
        grad = normal(FEW, p, d, seed=9)
        near = serving.forward(*squeezes, *weights)
        near_grads = serving.backward(grad, *squeezes, *weights, *near[1:])
        with ReservedAllocations():
            if self.many_samples:
                squeezes = [grown(x, self.batch) for x in squeezes]
                grad = grown(grad, self.batch)
            else:
                weights = [grown(w, self.excitations) for w in weights]
                grad = grown(grad, self.excitations, 1)
            with forward():
                far = serving.forward(*squeezes, *weights)
            with backward():
                grads = serving.backward(grad, *squeezes, *weights, *far[1:])
        for a, b in zip(near, far, strict=True):
            assert a.equal(b[-FEW:, -1:])
        # The gradients of what there is once are sums over all that there is much of.
        at_the_end = slice(None, 2) if self.many_samples else slice(2, None)
        for a, b in zip(near_grads[at_the_end], grads[at_the_end], strict=True):
            assert a.equal(b[-len(a) :])


# hidden and scales beyond 2^31, gates, squeezes, and their gradients; or the weights and theirs.
FAR_GATES = [
    FarGates(1, BEYOND // CHANNELS + FEW),
    FarGates(BEYOND // (ORDERS * UNITS * CHANNELS) + 1, FEW),
]
