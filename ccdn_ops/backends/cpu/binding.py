"""What binds a call of one feature map or matrix to its native kernels (registry.Bound).

The kernels get what they save in one memory, piece after piece, each at the beginning of a cache
line. Without gradients that memory is scratch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ccdn_ops.backends import compiled, native
from ccdn_ops.backends.cpu.scratch import KEPT_SCRATCH, scratch_memory
from ccdn_ops.backends.registry import Bound
from ccdn_ops.precision import accumulation_dtype

Kernel = Callable[..., int]
empty_like = torch.empty_like
LINE = 64  # bytes


def lines(size: int) -> int:
    """The bytes of whole cache lines that hold `size` bytes."""
    return -(-size // LINE) * LINE


class Saving(NamedTuple):
    """A form of an operator's forward pass: the argument struct, and sizes of what it saves.

    `owner` has the memory that the struct points to.
    """

    shape: Any
    states: Sequence[Sequence[int]]
    owner: Any = None


class Pieces:
    """Tensors of one dtype in one memory."""

    def __init__(self, dtype: torch.dtype, saving: Saving) -> None:
        self.dtype, self.owner = dtype, saving.owner
        self.shapes = [tuple(shape) for shape in saving.states]
        self.offsets, size = [], 0  # in bytes
        for shape in self.shapes:
            self.offsets.append(size)
            size += lines(prod(shape) * dtype.itemsize)
        self.size, self.numbers = size, size // dtype.itemsize

    def unpacked(self, saved: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Each tensor, as a view of the one that is saved."""
        (memory,) = saved
        return tuple(
            memory.narrow(0, offset // self.dtype.itemsize, prod(shape)).view(shape)
            for offset, shape in zip(self.offsets, self.shapes, strict=True)
        )


def flat_view(x: Tensor) -> Tensor | None:
    """x (B, D, ...) as (B, D, N) with the same memory, if its gradient has the same strides.

    None where a kernel would have to copy: H and W without a common stride, gaps, overlaps.
    """
    flat = x.flatten(2)
    grad = torch.empty_like(flat)
    if flat.data_ptr() != x.data_ptr() or grad.stride() != flat.stride():
        return None
    return flat if grad.view(x.shape).stride() == torch.empty_like(x).stride() else None


def of_one_tensor(
    operator: str,
    x: Tensor,
    results: Sequence[Sequence[int]],
    saving: Saving,
    without: Saving | None = None,
    *,
    zeros: bool = True,
) -> Bound:
    """Of an operator of one tensor, whose gradient has the strides of torch.empty_like(it).

    The native functions are OPERATOR_forward_cpu(shape, x, results..., states..., workspace,
    workers), OPERATOR_backward_cpu(shape, gradients of the results..., x, states..., gradient,
    workspace, workers) and OPERATOR_workspace_cpu(shape, workers, backward).

    Args:
        results: sizes of the one or two public outputs, in x's dtype.
        saving: with gradients; what is saved has the accumulation dtype.
        without: without gradients, where that is another form.
        zeros: a gradient that does not exist is made of zeros; otherwise its address is 0.
    """
    module, workers = native.require(), torch.get_num_threads()
    workspace: Callable[..., int] = getattr(module, f"{operator}_workspace_cpu")
    wide = accumulation_dtype(x.dtype)
    shape, pieces = saving.shape, Pieces(wide, saving)
    shape_without = (without or saving).shape
    pieces_without = pieces if without is None else Pieces(wide, without)
    # Without gradients what would be saved follows the workspace in the scratch memory.
    behind = lines(workspace(shape_without, workers, False))
    job = _Job(
        operator,
        workers,
        [tuple(size) for size in results],
        _Form(
            shape_without,
            [behind + offset for offset in pieces_without.offsets],
            behind + pieces_without.size,
        ),
        _Form(shape, pieces.offsets, workspace(shape, workers, False)),
        workspace(shape, workers, True),
        zeros,
    )
    saved = torch.empty(pieces.numbers, dtype=wide)
    if compiled.module() is None:
        functions = _in_python(job, x, saved)
    else:
        functions = _in_cpp(job, x, saved, owner=(saving, without))
    return Bound(*functions, pieces.unpacked)  # `pieces` owns what the structs point to


class _Form(NamedTuple):
    """Of a forward pass: its argument struct, where its states lie in one memory, scratch bytes."""

    shape: Any
    offsets: list[int]
    scratch: int


class _Job(NamedTuple):
    operator: str
    workers: int
    results: list[tuple[int, ...]]
    without: _Form
    saving: _Form
    backward_scratch: int
    zeros: bool


Functions = tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]


def _in_cpp(job: _Job, x: Tensor, saved: Tensor, owner: Any) -> Functions:
    """inference, forward and backward in C++ (csrc/torch/direct.cpp).

    `owner` has what the argument structs point to.
    """
    module = compiled.module()
    assert module is not None
    operator, packed = job.operator, native.require().packed
    made = module.OneTensor(
        forward=packed[f"{operator}_forward_cpu"],
        backward=packed[f"{operator}_backward_cpu"],
        failure=lambda name, status: native.failure(operator + name, status),
        owner=(owner, job),
        without=(job.without.shape.address, *job.without[1:]),
        saving=(job.saving.shape.address, *job.saving[1:]),
        backward_scratch=job.backward_scratch,
        results=job.results,
        gradient=torch.empty_like(x),
        saved=saved,
        zeros=job.zeros,
        workers=job.workers,
        kept=KEPT_SCRATCH,
    )
    return made.inference, made.forward, made.backward


def _in_python(job: _Job, x: Tensor, saved: Tensor) -> Functions:
    """inference, forward and backward in Python."""
    module = native.require()
    operator, workers, results, without, saving, backward_scratch, zeros = job
    run: Kernel = getattr(module, f"{operator}_forward_cpu")
    differentiate: Kernel = getattr(module, f"{operator}_backward_cpu")
    numbers, wide, same = saved.numel(), saved.dtype, x.dtype == saved.dtype
    one, two, single = results[0], results[-1], len(results) == 1

    def made(x: Tensor) -> tuple[Any, tuple[int, ...]]:
        """The public outputs, unwritten, and their addresses."""
        y = x.new_empty(*one)
        if single:
            return y, (y.data_ptr(),)
        z = x.new_empty(*two)
        return (y, z), (y.data_ptr(), z.data_ptr())

    def upstream(x: Tensor, grad: Tensor | None, size: tuple[int, ...]) -> Tensor | None:
        """A gradient as the kernel reads it."""
        if grad is not None:
            return grad.contiguous()
        return x.new_zeros(size) if zeros else None

    def inference(x: Tensor) -> Any:
        scratch = scratch_memory(without.scratch)
        found, addresses = made(x)
        memory = scratch.data_ptr()
        states = [memory + offset for offset in without.offsets]
        status = run(without.shape, x.data_ptr(), *addresses, *states, memory, workers)
        if status:
            raise native.failure(operator, status)
        return found

    def forward(x: Tensor) -> tuple[Any, tuple[Tensor]]:
        scratch = scratch_memory(saving.scratch)
        saved = x.new_empty(numbers) if same else x.new_empty(numbers, dtype=wide)
        found, addresses = made(x)
        memory = saved.data_ptr()
        states = [memory + offset for offset in saving.offsets]
        status = run(saving.shape, x.data_ptr(), *addresses, *states, scratch.data_ptr(), workers)
        if status:
            raise native.failure(operator, status)
        return found, (saved,)

    def backward(grads: Sequence[Tensor | None], tensors: Sequence[Tensor]) -> tuple[Tensor]:
        x, saved = tensors
        grad, scratch, memory = empty_like(x), scratch_memory(backward_scratch), saved.data_ptr()
        # The tensors stay in the list until the kernel has read them.
        given = [upstream(x, g, size) for g, size in zip(grads, (one, two), strict=False)]
        states = [memory + offset for offset in saving.offsets]
        status = differentiate(
            saving.shape,
            *[0 if g is None else g.data_ptr() for g in given],
            x.data_ptr(),
            *states,
            grad.data_ptr(),
            scratch.data_ptr(),
            workers,
        )
        if status:
            raise native.failure(f"{operator}_backward", status)
        return (grad,)

    return inference, forward, backward
