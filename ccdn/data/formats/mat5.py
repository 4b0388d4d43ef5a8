"""Reads variables of MATLAB files of version 5 to 7, in pure Python.

A file is a header of 128 bytes and then elements, each a tag (type and number of bytes) and its
content. A variable is an element MATRIX, which holds elements: class, dimensions, name and values;
cells and fields of structs are again MATRIX. COMPRESSED is a MATRIX behind zlib.

Why not scipy.io: its reader is compiled code that trusts dimensions and sizes, so a damaged file
crashes the process. The code here never indexes outside what was read, so any bytes give values or
a ValueError, and `_Budget` bounds what a file may request. Reading in a separate process would be
safe as well, but COFW-68 has 507 files. Types that the data sets do not use (functions, objects,
sparse matrices) are not read.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4"}
_NUMBERS |= {7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXT = {1: "ascii", 2: "utf-8", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_CELL, _STRUCT, _CHAR = 1, 2, 4
_NUMERIC = range(6, 16)  # double, single, int8 to uint64
_UNREAD = {3: "an object", 5: "a sparse matrix", 16: "a function", 17: "an object"}
_COMPLEX = 0x08

LARGEST = 1 << 28  # bytes of a file, and of its values: AFLW's are about 20 million
_MOST = 1 << 20  # cells and fields in a file: AFLW has 24 386
_LONGEST = 1 << 24  # characters in a file: AFLW's are about a million
_DEEPEST = 8  # cells in cells: 300W has a struct in a cell
_START = 4096  # of a compressed variable, to see its name


def read_mat5(content: bytes, names: Sequence[str]) -> dict[str, Any]:
    """The variables of these names that a file's content holds, as `scipy.io.loadmat` gives them
    with `squeeze_me=True`: numbers in the type they are stored in, rows of characters as str,
    cells as arrays of objects, structs as structured arrays of objects.

    An empty text is "". Raises ValueError for a file that is damaged, of another version, or has a
    variable of another class or of more than 256 MiB; others are passed over.
    """
    if len(content) > LARGEST:
        raise ValueError(f"found {len(content)} bytes, expected {LARGEST} at most")
    order = {b"IM": "<", b"MI": ">"}.get(content[126:_HEADER])
    if order is None:
        raise ValueError("its first 128 bytes are not the header of a version from 5 to 7")
    version = int.from_bytes(content[124:126], "little" if order == "<" else "big")
    if version == 0x0200:
        raise ValueError("found one of version 7.3, expected 7 or older; save it with '-v7'")
    if version != 0x0100:
        raise ValueError(f"found version {version:#06x}, expected 0x0100")
    budget = _Budget()
    found: dict[str, Any] = {}
    top = _Elements(content, _HEADER, len(content), order)
    while not top.at_end():
        kind, start, end = top.next()
        if kind == _COMPRESSED:
            matrix = _inflated(content[start:end], order, names, budget)
        elif kind == _MATRIX:
            matrix = _Elements(content, start, end, order)
        else:
            raise ValueError(
                f"found an element of type {kind} at byte {start}, expected a variable"
            )
        if matrix is None or matrix.at_end():
            continue
        head = _Head.read(matrix)
        if head.name in found:
            raise ValueError(f"found the variable {head.name!r} twice")
        if head.name in names:
            found[head.name] = _values(head, matrix, budget, 0)
    return found


class _Budget:
    """What a file may still request in total: a small file can be large when unpacked."""

    def __init__(self) -> None:
        self.left = {"bytes": LARGEST, "cells": _MOST, "characters": _LONGEST}

    def take(self, what: str, count: int) -> None:
        self.left[what] -= count
        if self.left[what] < 0:
            raise ValueError(f"found more {what} than a file of landmarks has")


class _Elements:
    """The elements from `position` to `end` of a content, one after the other."""

    def __init__(self, content: bytes, position: int, end: int, order: str) -> None:
        self.content, self.position, self.end, self.order = content, position, end, order
        self._byteorder = "little" if order == "<" else "big"

    def at_end(self) -> bool:
        return self.position >= self.end

    def next(self) -> tuple[int, int, int]:
        """Type, first byte and end of the next element."""
        start = self.position + 8
        if start > self.end:
            raise ValueError(f"truncated: an element at byte {self.position} has no tag")
        tag = self.content[self.position : start]
        kind = int.from_bytes(tag[:4], self._byteorder)  # type: ignore[arg-type]
        size = int.from_bytes(tag[4:], self._byteorder)  # type: ignore[arg-type]
        if kind >> 16:  # a short element: its content is the tag's second half
            kind, size = kind & 0xFFFF, kind >> 16
            if size > 4:
                raise ValueError(f"found a short element of {size} bytes, expected 4 at most")
            self.position, start = start, start - 4
            return kind, start, start + size
        if start + size > self.end:
            raise ValueError(
                f"truncated: an element of {size} bytes at byte {self.position},"
                f" {self.end - start} are left"
            )
        # All but compressed elements fill up to a multiple of 8.
        self.position = start + size + (-size % 8 if kind != _COMPRESSED else 0)
        return kind, start, start + size

    def matrix(self) -> _Elements:
        """The elements of the next one, a matrix."""
        kind, start, end = self.next()
        if kind != _MATRIX:
            raise ValueError(f"found an element of type {kind}, expected a matrix")
        return _Elements(self.content, start, end, self.order)

    def numbers(self, *kinds: int) -> np.ndarray:
        """The numbers of the next element, of one of these types or, without any, of all."""
        kind, start, end = self.next()
        if kind not in _NUMBERS or (kinds and kind not in kinds):
            raise ValueError(f"found values of type {kind}, expected numbers")
        dtype = np.dtype(self.order + _NUMBERS[kind])
        if (end - start) % dtype.itemsize:
            raise ValueError(f"found {end - start} bytes, expected whole numbers of {dtype}")
        return np.frombuffer(self.content, dtype, (end - start) // dtype.itemsize, start)

    def text(self) -> tuple[int, bytes]:
        """Type and bytes of the next element."""
        kind, start, end = self.next()
        return kind, self.content[start:end]


@dataclass(frozen=True)
class _Head:
    """What comes before a matrix's values."""

    kind: int
    is_complex: bool
    shape: tuple[int, ...]
    name: str

    @classmethod
    def read(cls, elements: _Elements) -> _Head:
        flags = elements.numbers(5, 6)
        if len(flags) != 2:
            raise ValueError(f"found {len(flags)} flags of a matrix, expected 2")
        kind, bits = int(flags[0]) & 0xFF, int(flags[0]) >> 8
        if kind == 17:  # has no dimensions
            return cls(kind, False, (), elements.text()[1].decode("latin-1"))
        shape = tuple(elements.numbers(5, 6).tolist())
        if not 2 <= len(shape) <= 32 or min(shape) < 0:
            raise ValueError(f"found the dimensions {shape[:32]}, expected two or more")
        name = elements.text()[1].decode("latin-1")
        return cls(kind, bool(bits & _COMPLEX), shape, name)

    @property
    def count(self) -> int:
        """How many values; a Python number, which does not overflow."""
        return math.prod(self.shape)


def _inflated(
    content: bytes, order: str, names: Sequence[str], budget: _Budget
) -> _Elements | None:
    """The elements of a compressed matrix; None if it has none of these names."""
    stream = zlib.decompressobj()
    try:
        start = stream.decompress(content, _START)
        size = int.from_bytes(start[4:8], "little" if order == "<" else "big")
        first = _Elements(start, 0, len(start), order)
        first.end = max(first.end, 8 + size)  # as if all of it were there
        matrix = first.matrix()
        if matrix.at_end() or _Head.read(matrix).name not in names:
            return None
        budget.take("bytes", size)
        whole = start + stream.decompress(stream.unconsumed_tail, max(1, 8 + size - len(start)))
        # One more byte, so that the checksum at the end is verified.
        more = stream.decompress(stream.unconsumed_tail, 1)
    except zlib.error as error:
        raise ValueError(f"a compressed variable is damaged: {error}") from None
    if len(whole) != 8 + size or more or not stream.eof or stream.unused_data:
        raise ValueError(f"a compressed variable is not of the {8 + size} bytes that it names")
    return _Elements(whole, 0, len(whole), order).matrix()


def _values(head: _Head, elements: _Elements, budget: _Budget, depth: int) -> Any:
    """The values of a matrix whose head was read."""
    if depth > _DEEPEST:
        raise ValueError(f"found cells in cells {depth} deep, expected {_DEEPEST} at most")
    if head.kind in _NUMERIC:
        return _numeric(head, elements)
    if head.kind == _CHAR:
        budget.take("characters", head.count)
        return _characters(head, elements)
    if head.kind == _CELL:
        budget.take("cells", head.count)
        cells = np.empty(head.count, object)
        for i in range(head.count):
            cells[i] = _nested(elements, budget, depth)
        return _squeezed(cells, head.shape)
    if head.kind == _STRUCT:
        return _struct(head, elements, budget, depth)
    found = _UNREAD.get(head.kind, f"a matrix of class {head.kind}")
    raise ValueError(f"found {found}, expected numbers, text, cells or a struct")


def _nested(elements: _Elements, budget: _Budget, depth: int) -> Any:
    matrix = elements.matrix()
    if matrix.at_end():
        return np.zeros(0)
    return _values(_Head.read(matrix), matrix, budget, depth + 1)


def _numeric(head: _Head, elements: _Elements) -> Any:
    values = elements.numbers()
    parts = [values, elements.numbers()] if head.is_complex else [values]
    for part in parts:
        if len(part) != head.count:
            raise ValueError(f"found {len(part)} numbers, expected {_by(head.shape)}")
    if head.is_complex:
        values = parts[0] + 1j * parts[1]
    return _squeezed(values, head.shape)


def _characters(head: _Head, elements: _Elements) -> Any:
    """A row as str, several as an array of str."""
    kind, content = elements.text()
    if head.count == 0:
        return ""
    if kind not in _TEXT:
        raise ValueError(f"found characters of type {kind}, expected text")
    codec = _TEXT[kind]
    if codec not in ("ascii", "utf-8"):
        codec += "-le" if elements.order == "<" else "-be"
    text = content.decode(codec, "replace")
    if len(text) != head.count:
        raise ValueError(f"found {len(text)} characters, expected {_by(head.shape)}")
    letters = np.array(list(text)).reshape(head.shape, order="F")
    rows = ["".join(row) for row in letters.reshape(-1, head.shape[-1]).tolist()]
    return rows[0] if len(rows) == 1 else _squeezed(np.array(rows), head.shape[:-1], "C")


def _struct(head: _Head, elements: _Elements, budget: _Budget, depth: int) -> Any:
    length = elements.numbers(5, 6)
    width = int(length[0]) if len(length) == 1 else 0
    packed = elements.text()[1]
    if width < 1 or len(packed) % width:
        raise ValueError(f"found names of fields of {len(packed)} bytes, {width} each")
    starts = range(0, len(packed), width)
    fields = [packed[i : i + width].split(b"\0")[0].decode("latin-1") for i in starts]
    if len(set(fields)) != len(fields) or "" in fields:
        raise ValueError("found a struct with two fields of one name, or one without a name")
    budget.take("cells", (head.count + 1) * len(fields))
    if not fields:
        return np.zeros(0, object)
    records = np.empty(head.count, [(name, object) for name in fields])
    for i in range(head.count):
        for name in fields:
            records[name][i] = _nested(elements, budget, depth)
    return _squeezed(records, head.shape)


def _squeezed(values: np.ndarray, shape: tuple[int, ...], order: Any = "F") -> Any:
    """The values in their shape without axes of length 1; a single number as a plain one."""
    if not values.size:
        return np.zeros(0, values.dtype)
    shaped = values.reshape(shape, order=order).squeeze()
    return shaped.item() if shaped.ndim == 0 and shaped.dtype.names is None else shaped


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
