"""NumPy arithmetic of the operations that Triton's IR (TTIR) is made of, and the kernels' memory.

Values are NumPy arrays, or scalars where the IR has scalars; i1 is bool, and bfloat16 is float32
rounded to it. Pointers are an argument's memory with offsets, so an access beyond the tensor that
was passed is an error, whatever lies there. So is a division by zero and what no order of threads
or programs may decide: a program that reads or writes what another writes, and threads of one
that read what others have written with no barrier in between.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from tensor_cores import tensor_core_product, tf32_dot
from torch import Tensor

DTYPES: dict[str, Any] = {
    "i1": np.bool_,
    "i8": np.int8,
    "i16": np.int16,
    "i32": np.int32,
    "i64": np.int64,
    "f16": np.float16,
    "bf16": np.float32,
    "f32": np.float32,
    "f64": np.float64,
}


class KernelError(AssertionError):
    """What a kernel does and must not."""


# Memory -------------------------------------------------------------------------------------------


class Memory:
    """What one tensor of a launch spans, and who has touched each element since the launch began.

    Tensors of one storage share the record. Programs and threads are told apart by `Clock`.
    """

    def __init__(self, name: str, tensor: Tensor, records: dict[int, Record], clock: Clock) -> None:
        self.name, self.clock = name, clock
        last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
        size = last + 1 if tensor.numel() else 0
        flat = tensor.detach().as_strided((size,), (1,))
        self.bf16 = flat.dtype == torch.bfloat16
        self.flat = flat.view(torch.int16).numpy().view(np.uint16) if self.bf16 else flat.numpy()
        storage = tensor.untyped_storage()
        # Records count in elements: kernels see one tensor's memory in one type only.
        key = storage.data_ptr()
        self.first = tensor.storage_offset()
        length = storage.nbytes() // tensor.element_size()
        self.record = records.setdefault(key, Record(length))
        if len(self.record.writer) != length:
            raise NotImplementedError(f"{name}: one storage in two types")

    def places(self, offsets: np.ndarray, what: str) -> np.ndarray:
        if offsets.size and (offsets.min() < 0 or offsets.max() >= self.flat.size):
            wrong = offsets[(offsets < 0) | (offsets >= self.flat.size)]
            raise KernelError(
                f"{what} at element {wrong.flat[0]} of {self.name}, which has {self.flat.size}"
            )
        return offsets

    def load(self, offsets: np.ndarray) -> np.ndarray:
        at = self.places(offsets, "a load")
        self.record.reads(at + self.first, self.clock, self.name)
        found = self.flat[at]
        if self.bf16:
            return (found.astype(np.uint32) << 16).view(np.float32)
        return found

    def store(self, offsets: np.ndarray, values: np.ndarray) -> None:
        at = self.places(offsets, "a store")
        self.record.writes(at + self.first, self.clock, self.name)
        if self.bf16:
            values = (np.ascontiguousarray(values).view(np.uint32) >> 16).astype(np.uint16)
        self.flat[at] = values


class Clock:
    """The program that runs, from 1, and how many barriers the launch has passed."""

    def __init__(self) -> None:
        self.program = 0
        self.barriers = 1

    def barrier(self) -> None:
        self.barriers += 1


class Record:
    """Of each element, the program that wrote it, one that read it, and when it was written."""

    def __init__(self, length: int) -> None:
        self.writer = np.zeros(length, np.int32)
        self.reader = np.zeros(length, np.int32)
        self.written = np.zeros(length, np.int32)

    def reads(self, at: np.ndarray, clock: Clock, name: str) -> None:
        writer = self.writer[at]
        if ((writer != 0) & (writer != clock.program)).any():
            raise KernelError(f"a program reads what another has written to {name}")
        if (self.written[at] == clock.barriers).any():
            raise KernelError(f"no barrier between a store to {name} and a load of it")
        self.reader[at] = clock.program

    def writes(self, at: np.ndarray, clock: Clock, name: str) -> None:
        for before in (self.writer[at], self.reader[at]):
            if ((before != 0) & (before != clock.program)).any():
                raise KernelError(f"two programs use one element of {name}, and one writes it")
        self.writer[at] = clock.program
        self.written[at] = clock.barriers


class Pointer(NamedTuple):
    memory: Memory
    offset: Any  # int64, a number or an array

    def __add__(self, offset: Any) -> Pointer:  # type: ignore[override]
        return Pointer(self.memory, self.offset + np.int64(1) * offset)


def load(pointer: Pointer, mask: Any = None, other: Any = None) -> Any:
    offset = np.asarray(pointer.offset)
    if mask is None:
        found = pointer.memory.load(offset.reshape(-1)).reshape(offset.shape)
        return found if offset.shape else found[()]
    mask = np.broadcast_to(mask, offset.shape)
    # What is loaded where the mask is False means nothing, so it shows.
    dtype = np.dtype(np.float32) if pointer.memory.bf16 else pointer.memory.flat.dtype
    nothing = np.nan if dtype.kind == "f" else np.iinfo(dtype).min
    found = np.full(offset.shape, nothing if other is None else other, dtype)
    found[mask] = pointer.memory.load(offset[mask])
    return found if offset.shape else found[()]


def store(pointer: Pointer, value: Any, mask: Any = None) -> None:
    offset = np.asarray(pointer.offset)
    mask = np.broadcast_to(True if mask is None else mask, offset.shape)
    pointer.memory.store(offset[mask], np.broadcast_to(value, offset.shape)[mask])


# Shapes: of pointers, their offsets' --------------------------------------------------------------


def shaped(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, Pointer):
        return Pointer(value.memory, change(value.offset))
    return change(value)


def splat(value: Any, shape: tuple[int, ...]) -> Any:
    return shaped(value, lambda x: np.broadcast_to(x, shape))


def expand_dims(value: Any, axis: int) -> Any:
    return shaped(value, lambda x: np.expand_dims(x, axis))


def trans(value: Any, order: tuple[int, ...]) -> Any:
    return shaped(value, lambda x: np.transpose(x, order))


def select(condition: Any, yes: Any, no: Any) -> Any:
    if isinstance(yes, Pointer):
        if np.ndim(condition):
            raise NotImplementedError("a choice between pointers for each element")
        return yes if condition else no
    return np.where(condition, yes, no)[()]


def reduce(value: np.ndarray, axis: int, combine: Callable[[Any, Any], Any]) -> Any:
    """In halves, as threads do: the length is a power of two."""
    lines = np.moveaxis(value, axis, 0)
    while len(lines) > 1:
        half = len(lines) // 2
        lines = combine(lines[:half], lines[half:])
    return lines[0]


# Numbers ------------------------------------------------------------------------------------------


def round_bf16(x: Any) -> Any:
    """float32 to the nearest bfloat16, ties to even; NaN stays."""
    x = np.asarray(x, np.float32)
    bits = x.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(
        0xFFFF0000
    )
    return np.where(np.isnan(x), x, rounded.view(np.float32))[()]


def truncf(x: Any, source: str, target: str) -> Any:
    if target == "bf16":
        if source != "f32":
            raise NotImplementedError(f"{source} to bf16, which would be rounded twice")
        return round_bf16(x)
    return x.astype(DTYPES[target])


def fptosi(x: Any, target: str) -> Any:
    limits = np.iinfo(DTYPES[target])
    if not ((x >= limits.min) & (x <= limits.max)).all():
        raise KernelError(f"a number that is no {target}")
    return x.astype(DTYPES[target])


def divsi(a: Any, b: Any) -> Any:
    """Towards zero."""
    return ((a - remsi(a, b)) // b).astype(a.dtype)


def remsi(a: Any, b: Any) -> Any:
    if not np.all(b):
        raise KernelError("a division of integers by zero")
    return np.fmod(a, b)


def dot(a: np.ndarray, b: np.ndarray, total: np.ndarray, kind: str, precision: str) -> np.ndarray:
    """a b + total of operands of a kind, as tensor cores or float32 and float64 units do."""
    if kind in ("bf16", "f16"):
        return tensor_core_product(a, b, total)
    if kind == "f32" and precision in ("tf32", "tf32x3"):
        return tf32_dot(3 if precision == "tf32x3" else 1, a, b, total)
    if precision != "ieee":
        raise NotImplementedError(f"a product of {kind} in {precision}")
    return a @ b + total
