"""Reads arrays of HDF5 files as MATLAB writes them (v7.3), in pure Python.

It reads the structures of HDF5's first format, which MATLAB and, by default, h5py write: superblock
0 or 1, object headers of version 1, groups as B-trees, arrays in one piece or in chunks, zlib and
shuffle; integers, floats, and references to objects in the same file.

Why not h5py: a file can make the HDF5 library read any other file on the machine (external storage,
external links, virtual arrays) or load a program (filters), and its compiled code trusts damaged
files, which can crash the process. The code here opens no other file and never indexes outside what
was read; any bytes give numbers or a ValueError. An array may have up to LARGEST bytes. Reading
takes no lock and keeps no state, so threads and forks are safe.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import BinaryIO

import numpy as np

LARGEST = 1 << 28  # bytes of an array and of its chunks; a picture of COFW has 3 million at most
_MOST = 1 << 16  # chunks of an array, names in a group
_LONGEST_HEADER, _MOST_HEADERS = 1 << 20, 64  # bytes of a block of an object's header, blocks
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_NOWHERE = (1 << 64) - 1
_DATASPACE, _LINK_INFO, _DATATYPE, _EXTERNAL = 0x1, 0x2, 0x3, 0x7
_LAYOUT, _FILTERS, _CONTINUED, _SYMBOLS = 0x8, 0xB, 0x10, 0x11
_DEFLATE, _SHUFFLE = 1, 2
_COMPACT, _WHOLE, _CHUNKED = 0, 1, 2
_LATER = "of a later format of HDF5, expected that of MATLAB's files (v7.3)"


@dataclass(frozen=True)
class _Layout:
    """Where an array's values are. kind: in the header (content), in one piece, in chunks of these
    sides (the last one is the bytes of a value), whose B-tree lies at the address.
    """

    kind: int
    address: int = _NOWHERE
    sides: tuple[int, ...] = ()
    content: bytes = b""


@dataclass(frozen=True)
class Array:
    """An array in a file. shape: HDF5's, MATLAB's reversed. is_reference: its values are addresses
    for `Hdf5File.referenced`.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    is_reference: bool
    _file: Hdf5File = field(repr=False)
    _layout: _Layout = field(repr=False)
    _filters: tuple[int, ...] = ()

    def read(self) -> np.ndarray:
        """All of its values. Raises ValueError if they are not in the file, or too many."""
        size = math.prod(self.shape) * self.dtype.itemsize
        if size == 0:
            return np.zeros(self.shape, self.dtype)
        if size > LARGEST:
            raise ValueError(f"found an array of {size} bytes, expected {LARGEST} at most")
        if self._layout.kind == _CHUNKED:
            return self._chunked()
        content = self._layout.content
        if self._layout.kind == _WHOLE:
            content = self._file.at(self._layout.address, size, "an array")
        if self._filters or len(content) != size:
            raise ValueError(f"found an array of {len(content)} bytes, expected {size}")
        return np.frombuffer(content, self.dtype).reshape(self.shape)

    def _chunked(self) -> np.ndarray:
        rank = len(self.shape)
        sides = self._layout.sides
        if len(sides) != rank + 1 or sides[-1] != self.dtype.itemsize or 0 in sides:
            raise ValueError(f"found chunks of {sides}, expected {rank} sides and the item's bytes")
        count = math.prod(-(-side // chunk) for side, chunk in zip(self.shape, sides, strict=False))
        size = math.prod(sides)
        if count > _MOST or count * size > LARGEST:
            raise ValueError(f"found {count} chunks of {size} bytes, more than {LARGEST} in all")
        values = np.empty(self.shape, self.dtype)
        missing = set(product(*(range(0, a, b) for a, b in zip(self.shape, sides, strict=False))))
        for key, address in self._file.leaves(self._layout.address, 1, 8 + 8 * len(sides)):
            corner = tuple(_number(key, 8 + 8 * i) for i in range(rank))
            if corner not in missing:
                raise ValueError(f"found an invalid or duplicate chunk at {corner}")
            missing.remove(corner)
            content = self._file.at(address, _number(key, 0, 4), "a chunk")
            chunk = np.frombuffer(self._unpacked(content, _number(key, 4, 4), size), self.dtype)
            ends = [min(a, b) for a, b in zip(sides, np.subtract(self.shape, corner), strict=False)]
            target = tuple(slice(a, a + end) for a, end in zip(corner, ends, strict=True))
            values[target] = chunk.reshape(sides[:-1])[tuple(slice(end) for end in ends)]
        if missing:
            raise ValueError(f"found no chunk at {min(missing)}, {len(missing)} are missing")
        return values

    def _unpacked(self, content: bytes, left_out: int, size: int) -> bytes:
        """A chunk's content with its filters undone, except those in the mask `left_out`."""
        for number, name in reversed(list(enumerate(self._filters))):
            if left_out >> number & 1:
                continue
            if name == _DEFLATE:
                stream = zlib.decompressobj()
                try:
                    content = stream.decompress(content, size + 1)
                except zlib.error as error:
                    raise ValueError(f"a chunk is damaged: {error}") from None
                if not stream.eof:
                    raise ValueError("a chunk is truncated, or larger than it should be")
            elif len(content) == size:
                planes = np.frombuffer(content, np.uint8).reshape(self.dtype.itemsize, -1)
                content = planes.T.tobytes()
        if len(content) != size:
            raise ValueError(f"found a chunk of {len(content)} bytes, expected {size}")
        return content


class Hdf5File:
    """The arrays of an open file. Raises ValueError, here and in every method, if the file is
    damaged or holds something else.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = file.seek(0, 2)
        self._start = self._find_start()
        head = self.at(0, min(128, self._size - self._start), "the superblock")
        if head[8] > 1 or head[13:15] != b"\x08\x08":
            raise ValueError(f"found a superblock of version {head[8]}, {_LATER}")
        self._root = _number(head, 64 + 4 * head[8])

    def array(self, name: str) -> Array | None:
        """The array of that name; None without one."""
        found = None
        for kind, content in self._messages(self._root):
            if kind == _SYMBOLS:
                found = self._in_table(_number(content, 0), _number(content, 8), name.encode())
            elif kind == _LINK_INFO:
                raise ValueError(f"found its variables in a group {_LATER}; it may hold links")
            if found is not None:
                return self.referenced(found)
        return None

    def referenced(self, address: int) -> Array:
        """The array at an address, as a reference holds it."""
        parts: dict[int, bytes] = {}
        for kind, content in self._messages(address):
            if kind in (_DATASPACE, _DATATYPE, _LAYOUT, _FILTERS, _EXTERNAL) and kind in parts:
                raise ValueError("found an array with two shapes, types or places")
            parts[kind] = content
        if _EXTERNAL in parts:
            raise ValueError("found an array whose values are in other files (external storage)")
        if not {_DATASPACE, _DATATYPE, _LAYOUT} <= set(parts):
            raise ValueError(f"found no array at the address {address}")
        dtype, is_reference = _dtype(parts[_DATATYPE])
        filters = _filters(parts.get(_FILTERS, b"\x01\0"))
        layout = _layout(parts[_LAYOUT])
        return Array(_shape(parts[_DATASPACE]), dtype, is_reference, self, layout, filters)

    def at(self, address: int, size: int, what: str) -> bytes:
        """Bytes of the file from an address, which counts from its superblock."""
        place = self._start + address
        if address == _NOWHERE:
            raise ValueError(f"found {what} that was never written")
        if size > LARGEST or place + size > self._size:
            raise ValueError(
                f"truncated: {what} of {size} bytes lies at byte {place} of {self._size}"
            )
        self._file.seek(place)
        return self._file.read(size)

    def leaves(self, address: int, kind: int, key: int) -> Iterator[tuple[bytes, int]]:
        """Key and address of every entry in the leaves of a B-tree with keys of that many bytes."""
        waiting, seen = [(address, 256)], {address}
        while waiting:
            address, above = waiting.pop()
            head = self.at(address, 24, "a B-tree")
            level, count = head[5], _number(head, 6, 2)
            if head[:4] != b"TREE" or head[4] != kind or level >= above:
                raise ValueError(f"found no node of a B-tree at the address {address}")
            entries = self.at(address + 24, count * (key + 8), "a B-tree's entries")
            for start in range(0, len(entries), key + 8):
                below = _number(entries, start + key)
                if below in seen or len(seen) > _MOST:
                    raise ValueError("found a B-tree that leads back to itself or has no end")
                seen.add(below)
                if level == 0:
                    yield entries[start : start + key], below
                else:
                    waiting.append((below, level))

    def _find_start(self) -> int:
        place = 0
        while place + 96 <= self._size:
            self._file.seek(place)
            if self._file.read(8) == _SIGNATURE:
                return place
            place = max(512, 2 * place)
        raise ValueError("found no HDF5 superblock")

    def _messages(self, address: int) -> Iterator[tuple[int, bytes]]:
        """Type and content of what an object's header says."""
        head = self.at(address, 16, "an object's header")
        if head[:4] == b"OHDR":
            raise ValueError(f"found an object's header {_LATER}")
        if head[0] != 1:
            raise ValueError(f"found no object's header at the address {address}")
        left = _number(head, 2, 2)
        blocks, seen = [(address + 16, _number(head, 8, 4))], {address + 16}
        while blocks:
            start, size = blocks.pop(0)
            if size > _LONGEST_HEADER:
                raise ValueError(f"found an object's header of {size} bytes")
            block = self.at(start, size, "an object's header")
            place = 0
            while left > 0 and place + 8 <= len(block):
                kind, size = _number(block, place, 2), _number(block, place + 2, 2)
                shared = block[place + 4] & 2
                content = block[place + 8 : place + 8 + size]
                if len(content) != size:
                    raise ValueError(f"truncated: a message of {size} bytes in an object's header")
                place, left = place + 8 + size, left - 1
                if kind == _CONTINUED:
                    target = _number(content, 0), _number(content, 8)
                    if target[0] in seen or len(seen) > _MOST_HEADERS:
                        raise ValueError("found an object's header that leads back to itself")
                    seen.add(target[0])
                    blocks.append(target)
                elif shared and kind in (_DATASPACE, _DATATYPE, _LAYOUT, _FILTERS, _EXTERNAL):
                    raise ValueError("found an array whose type is that of another (a named type)")
                else:
                    yield kind, content

    def _in_table(self, tree: int, heap: int, name: bytes) -> int | None:
        """The address of a group's object; None without one of that name."""
        head = self.at(heap, 32, "the names of a group")
        if head[:4] != b"HEAP":
            raise ValueError("found no names of a group")
        names = self.at(_number(head, 24), _number(head, 8), "the names of a group")
        left = _MOST
        for _, address in self.leaves(tree, 0, 8):
            node = self.at(address, 8, "the symbols of a group")
            left -= _number(node, 6, 2)
            if node[:4] != b"SNOD" or left < 0:
                raise ValueError("found no symbols of a group, or too many")
            entries = self.at(address + 8, 40 * _number(node, 6, 2), "the symbols of a group")
            for start in range(0, len(entries), 40):
                place = _number(entries, start)
                if names[place : place + len(name) + 1] == name + b"\0":
                    if _number(entries, start + 16, 4) == 2:
                        raise ValueError(f"found a soft link {name.decode()}, expected an array")
                    return _number(entries, start + 8)
        return None


def _number(content: bytes, place: int, size: int = 8) -> int:
    found = content[place : place + size]
    if len(found) != size:
        raise ValueError(f"truncated: {len(content)} bytes, expected {place + size} or more")
    return int.from_bytes(found, "little")


def _shape(content: bytes) -> tuple[int, ...]:
    version, rank = _number(content, 0, 1), _number(content, 1, 1)
    if version not in (1, 2) or rank > 32 or (version == 2 and content[3:4] == b"\2"):
        raise ValueError(f"found a shape of version {version} with {rank} axes")
    return tuple(_number(content, (8 if version == 1 else 4) + 8 * i) for i in range(rank))


def _layout(content: bytes) -> _Layout:
    version = _number(content, 0, 1)
    if version in (1, 2):  # as MATLAB wrote until 2008
        rank, kind = _number(content, 1, 1), _number(content, 2, 1)
        place = 8 if kind == _COMPACT else 16
        address = _NOWHERE if kind == _COMPACT else _number(content, 8)
        after, width = place + 4 * rank, 4
    elif version == 3:
        kind = _number(content, 1, 1)
        rank = _number(content, 2, 1) if kind == _CHUNKED else 0
        address = _NOWHERE if kind == _COMPACT else _number(content, 3 if kind == _CHUNKED else 2)
        place, after, width = 11, 2, 2
    elif version == 4 and content[1:2] == b"\3":
        raise ValueError("found an array whose values are in other files (a virtual array)")
    else:
        raise ValueError(f"found storage of version {version}, {_LATER}")
    if kind == _COMPACT:
        size = _number(content, after, width)
        return _Layout(kind, content=content[after + width : after + width + size])
    if kind == _WHOLE:
        return _Layout(kind, address)
    if kind != _CHUNKED:
        raise ValueError(f"found storage of kind {kind}, expected 0, 1 or 2")
    return _Layout(kind, address, tuple(_number(content, place + 4 * i, 4) for i in range(rank)))


def _dtype(content: bytes) -> tuple[np.dtype, bool]:
    """The type of an array's values, and whether they are references."""
    kind, bits, size = _number(content, 0, 1) & 15, _number(content, 1, 3), _number(content, 4, 4)
    order = ">" if bits & 1 else "<"
    if kind == 7 and bits & 15 == 0 and size == 8:
        return np.dtype("<u8"), True
    whole = kind in (0, 1) and content[8:10] == b"\0\0" and _number(content, 10, 2) == 8 * size
    if kind == 0 and whole and size in (1, 2, 4, 8):
        return np.dtype(f"{order}{'i' if bits & 8 else 'u'}{size}"), False
    if kind == 1 and whole and size in (4, 8) and not bits & 0x40:
        return np.dtype(f"{order}f{size}"), False
    raise ValueError(
        f"found values of class {kind} and {size} bytes, expected integers, floats or references"
    )


def _filters(content: bytes) -> tuple[int, ...]:
    """The filters that an array's chunks went through, in their order."""
    version, count = _number(content, 0, 1), _number(content, 1, 1)
    if version not in (1, 2):
        raise ValueError(f"found filters of version {version}, expected 1 or 2")
    found, place = [], 8 if version == 1 else 2
    for _ in range(count):
        name = _number(content, place, 2)
        if name not in (_DEFLATE, _SHUFFLE):
            raise ValueError(f"found chunks that need the filter {name}, expected zlib or shuffle")
        found.append(name)
        length, values = (
            (_number(content, place + 2, 2), place + 6) if version == 1 else (0, place + 4)
        )
        used = _number(content, values, 2)
        padded = -(-length // 8) * 8 + 4 * (used % 2) if version == 1 else 0
        place = values + 2 + padded + 4 * used
    return tuple(found)
