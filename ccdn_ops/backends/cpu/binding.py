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

from ccdn_ops.backends import native
from ccdn_ops.backends.cpu.scratch import scratch_memory
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
    run: Kernel = getattr(module, f"{operator}_forward_cpu")
    differentiate: Kernel = getattr(module, f"{operator}_backward_cpu")
    workspace: Kernel = getattr(module, f"{operator}_workspace_cpu")
    dtype, wide = x.dtype, accumulation_dtype(x.dtype)
    shape, pieces = saving.shape, Pieces(wide, saving)
    shape_without = (without or saving).shape
    pieces_without = pieces if without is None else Pieces(wide, without)

    forward_bytes, backward_bytes = (workspace(shape, workers, b) for b in (False, True))
    # Without gradients what would be saved follows the workspace in the scratch memory.
    behind = lines(workspace(shape_without, workers, False))
    inference_bytes = behind + pieces_without.size
    offsets, offsets_without = pieces.offsets, [behind + o for o in pieces_without.offsets]
    numbers, same = pieces.numbers, dtype == wide
    one, two = tuple(results[0]), tuple(results[-1])
    single = len(results) == 1

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
        scratch = scratch_memory(inference_bytes)
        found, addresses = made(x)
        memory = scratch.data_ptr()
        states = [memory + offset for offset in offsets_without]
        status = run(shape_without, x.data_ptr(), *addresses, *states, memory, workers)
        if status:
            raise native.failure(operator, status)
        return found

    def forward(x: Tensor) -> tuple[Any, tuple[Tensor]]:
        scratch = scratch_memory(forward_bytes)
        saved = x.new_empty(numbers) if same else x.new_empty(numbers, dtype=wide)
        found, addresses = made(x)
        memory = saved.data_ptr()
        states = [memory + offset for offset in offsets]
        status = run(shape, x.data_ptr(), *addresses, *states, scratch.data_ptr(), workers)
        if status:
            raise native.failure(operator, status)
        return found, (saved,)

    def backward(grads: Sequence[Tensor | None], tensors: Sequence[Tensor]) -> tuple[Tensor]:
        x, saved = tensors
        grad, scratch, memory = empty_like(x), scratch_memory(backward_bytes), saved.data_ptr()
        # The tensors stay in the list until the kernel has read them.
        given = [upstream(x, g, size) for g, size in zip(grads, (one, two), strict=False)]
        states = [memory + offset for offset in offsets]
        status = differentiate(
            shape,
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

    return Bound(inference, forward, backward, pieces.unpacked)
