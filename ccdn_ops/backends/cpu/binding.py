"""What binds a call to its native kernels (registry.Bound).

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
        self.dtype = dtype
        self.shapes = [tuple(shape) for shape in saving.states]
        self.offsets, size = [], 0  # in bytes
        for shape in self.shapes:
            self.offsets.append(size)
            size += lines(prod(shape) * dtype.itemsize)
        self.size, self.numbers = size, size // dtype.itemsize

    def unpacked(self, saved: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Each tensor, as a view of the one that is saved."""
        if not self.shapes:
            return ()
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
    """Of an operator of one tensor, whose native functions take scratch memory and workers.

    results: sizes of the public outputs, in x's dtype. The rest is that of `bound`.
    """
    module, workers = native.require(), torch.get_num_threads()
    workspace: Callable[..., int] = getattr(module, f"{operator}_workspace_cpu")

    def bytes_of(shape: Any, backward: bool) -> int:
        return workspace(shape, workers, backward)

    outputs = [x.new_empty(size, device="meta") for size in results]
    return bound(
        *(operator, (x,), outputs, saving, without),
        workspace=bytes_of,
        workers=workers,
        zeros=zeros,
    )


def bound(
    operator: str,
    inputs: Sequence[Tensor | None],
    outputs: Sequence[Tensor],
    saving: Saving,
    without: Saving | None = None,
    *,
    gradients: Sequence[Tensor | None] | None = None,
    workspace: Callable[[Any, bool], int] | None = None,
    workers: int = 0,
    zeros: bool = True,
) -> Bound:
    """Of two native functions, OPERATOR_forward_cpu and OPERATOR_backward_cpu.

    They take, in this order, what there is of:

      forward(shape, inputs..., outputs..., states..., workspace, workers)
      backward(shape, gradients of the outputs..., inputs..., states..., gradients of the inputs...,
          workspace, workers)

    Args:
        outputs: with the sizes, strides and dtypes of the public outputs; `meta` will do.
        saving: with gradients; what is saved has the accumulation dtype of the first input.
        without: without gradients, where that is another form.
        gradients: as `outputs`, of the inputs' gradients; by default torch.empty_like(input).
        workspace: (shape, whether backward) -> bytes of scratch memory, if the functions take it;
            what is saved needs it, because it has no other room without gradients.
        workers: the number of threads, if the functions take it.
        zeros: a gradient that does not exist is made of zeros; otherwise its address is 0.
    """
    first = inputs[0]
    assert first is not None
    wide = accumulation_dtype(first.dtype)
    pieces, alone = Pieces(wide, saving), without or saving
    pieces_alone = pieces if without is None else Pieces(wide, without)
    if workspace is None and (saving.states or alone.states):
        raise ValueError(f"{operator} saves something, which needs a workspace")
    sizes = workspace or (lambda shape, backward: 0)
    # Without gradients what would be saved follows the workspace in the scratch memory.
    behind = lines(sizes(alone.shape, False))
    if gradients is None:
        gradients = [None if x is None else torch.empty_like(x, device="meta") for x in inputs]
    job = _Job(
        operator,
        tuple(outputs),
        tuple(gradients),
        torch.empty(pieces.numbers, dtype=wide, device="meta"),
        _Form(alone, [behind + o for o in pieces_alone.offsets], behind + pieces_alone.size),
        _Form(saving, pieces.offsets, sizes(saving.shape, False)),
        sizes(saving.shape, True),
        workspace is not None,
        workers,
        zeros,
    )
    functions = (_in_python if compiled.module() is None else _in_cpp)(job)
    return Bound(*functions, pieces.unpacked)


class _Form(NamedTuple):
    """Of a forward pass: where its states lie in one memory, bytes of scratch memory."""

    given: Saving
    offsets: list[int]
    scratch: int


class _Job(NamedTuple):
    operator: str
    outputs: tuple[Tensor, ...]
    gradients: tuple[Tensor | None, ...]
    saved: Tensor
    without: _Form
    saving: _Form
    backward_scratch: int
    scratch: bool  # whether the functions take it
    workers: int
    zeros: bool


Functions = tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]


def _in_cpp(job: _Job) -> Functions:
    """inference, forward and backward in C++ (csrc/torch/kernels.h)."""
    module = compiled.module()
    assert module is not None
    operator, packed = job.operator, native.require().packed
    made = module.Kernels(
        forward=packed[f"{operator}_forward_cpu"],
        backward=packed[f"{operator}_backward_cpu"],
        failure=lambda name, status: native.failure(operator + name, status),
        owner=job,  # of the argument structs and what they point to
        without=(job.without.given.shape.address, *job.without[1:]),
        saving=(job.saving.given.shape.address, *job.saving[1:]),
        backward_scratch=job.backward_scratch,
        outputs=job.outputs,
        gradients=job.gradients,
        saved=job.saved,
        scratch=job.scratch,
        zeros=job.zeros,
        workers=job.workers,
        kept=KEPT_SCRATCH,
    )
    return made.inference, made.forward, made.backward


def _in_python(job: _Job) -> Functions:
    """inference, forward and backward in Python, where every look-up counts: what is the same for
    all calls is a local name."""
    module = native.require()
    operator, workers, zeros = job.operator, job.workers, job.zeros
    call, packed = module.call, module.packed
    run, differentiate = packed[f"{operator}_forward_cpu"], packed[f"{operator}_backward_cpu"]
    first = job.gradients[0]
    assert first is not None
    make_outputs = [_maker(y, first.dtype) for y in job.outputs]
    make_gradients = [_maker(g, first.dtype) for g in job.gradients]
    make_saved = _maker(job.saved, first.dtype)
    strides = [y.stride() for y in job.outputs]
    single, count = len(job.outputs) == 1, len(job.gradients)
    (alone, alone_offsets, alone_scratch), (saving, offsets, scratch) = job.without, job.saving
    alone_shape, shape = alone.shape.address, saving.shape.address
    backward_scratch = job.backward_scratch
    takes_scratch, saves = job.scratch, bool(offsets)
    of_inputs = _address if None in job.gradients else address

    def failure(name: str, status: int) -> RuntimeError:
        # It has the job, which owns what the addresses of the structs point to.
        return native.failure(job.operator + name, status)

    def inference(*inputs: Tensor | None) -> Any:
        x = inputs[0]
        made = [make(x) for make in make_outputs]
        given = [*map(of_inputs, inputs), *map(address, made)]
        if takes_scratch:
            memory = scratch_memory(alone_scratch)  # a large one is kept by this name alone
            base = address(memory)
            given += [base + offset for offset in alone_offsets]
            given.append(base)
        status = call(run, alone_shape, given, workers)
        if status:
            raise failure("", status)
        return made[0] if single else tuple(made)

    def forward(*inputs: Tensor | None) -> tuple[Any, tuple[Tensor, ...]]:
        x = inputs[0]
        made = [make(x) for make in make_outputs]
        given = [*map(of_inputs, inputs), *map(address, made)]
        saved: tuple[Any, ...] = ()
        if saves:
            saved = (make_saved(x),)
            base = address(saved[0])
            given += [base + offset for offset in offsets]
        if takes_scratch:
            memory = scratch_memory(scratch)
            given.append(address(memory))
        status = call(run, shape, given, workers)
        if status:
            raise failure("", status)
        return (made[0] if single else tuple(made)), saved

    def upstream(x: Tensor | None, number: int, grad: Tensor | None) -> Tensor | None:
        """A gradient of an output as the kernel reads it."""
        if grad is None:
            return make_outputs[number](x).zero_() if zeros else None
        return grad if grad.stride() == strides[number] else make_outputs[number](x).copy_(grad)

    def backward(
        grads: Sequence[Tensor | None], tensors: Sequence[Tensor | None]
    ) -> list[Tensor | None]:
        x = tensors[0]
        # The tensors stay in the lists until the kernel has read them.
        given = [upstream(x, number, grad) for number, grad in enumerate(grads)]
        made = [make(x) for make in make_gradients]
        addresses = [*map(_address, given), *map(of_inputs, tensors[:count])]
        if saves:
            base = address(tensors[count])
            addresses += [base + offset for offset in offsets]
        addresses += map(of_inputs, made)
        if takes_scratch:
            memory = scratch_memory(backward_scratch)
            addresses.append(address(memory))
        status = call(differentiate, shape, addresses, workers)
        if status:
            raise failure("_backward", status)
        return made

    return inference, forward, backward


address: Callable[[Any], int] = Tensor.data_ptr


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def _maker(like: Tensor | None, first: torch.dtype) -> Callable[[Any], Any]:
    """What makes an uninitialised tensor with the sizes, strides and dtype of `like` beside another
    one, of the dtype `first`; None for None."""
    if like is None:
        return lambda x: None
    size, strides, dtype = like.shape, like.stride(), like.dtype
    # Not is_contiguous(), for which any stride along a size of 1 will do.
    if not size or strides != torch.empty(size, device="meta").stride():
        return lambda x: x.new_empty_strided(size, strides, dtype=dtype)
    if dtype is first:
        return lambda x: x.new_empty(*size)  # half of what new_empty(size) takes
    return lambda x: x.new_empty(*size, dtype=dtype)
