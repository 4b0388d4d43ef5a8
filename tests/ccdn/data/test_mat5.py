"""The reader of MATLAB files of version 5 to 7: the values that SciPy gives, and an error in one
line for what is damaged, asks for too much, or is of another version.
"""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from ccdn.data import DataError
from ccdn.data.formats import mat5
from ccdn.data.formats.mat import load_mat
from ccdn.data.formats.mat5 import read_mat5

SCIPY_FILES = sorted((Path(scipy.io.matlab.__file__).parent / "tests" / "data").glob("*.mat"))


def same(ours: Any, theirs: Any) -> bool:
    """Whether two values are equal, of one type and shape, all the way down; an empty text is "" in
    one and an empty array in the other.
    """
    one, two = np.asarray(ours), np.asarray(theirs)
    if one.dtype.names or two.dtype.names:
        fields = one.dtype.names or ()
        return (fields, one.shape) == (two.dtype.names, two.shape) and all(
            same(one[name], two[name]) for name in fields
        )
    if two.size == 0:
        return one.size == 0 or ours == ""
    if one.dtype == object:
        pairs = zip(one.ravel(), two.ravel(), strict=True)
        return one.shape == two.shape and all(same(a, b) for a, b in pairs)
    return one.dtype == two.dtype and np.array_equal(one, two)


def content() -> dict[str, Any]:
    random = np.random.default_rng(0)
    names = np.empty((7, 1), object)
    for i in range(len(names)):
        names[i, 0] = f"{i}/image{i}.jpg"
    box = {"imgName": "a.png", "bb_detector": np.array([[1.5, 2, 3, 4]])}
    boxes = np.empty((1, 2), object)
    boxes[0, 0], boxes[0, 1] = box, {**box, "imgName": ""}
    kinds = {
        f"kind_{k}": (100 * random.random((3, 2))).astype(k) for k in np.sctypeDict if k in KINDS
    }
    return kinds | {
        "data": random.normal(size=(7, 38)),
        "cube": random.normal(size=(2, 3, 4)),
        "one": 5.0,
        "none": np.zeros((0, 4)),
        "wave": random.normal(size=3) + 1j * random.normal(size=3),
        "nameList": names,
        "bounding_boxes": boxes,
        "text": "a row",
        "rows": np.array(["two rows", "of text "]),
        "far": "Ж и漢",
        "nested": {"inner": {"more": [1.0, 2.0]}, "cells": boxes},
    }


KINDS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64", "int64")


def saved(values: dict[str, Any], compressed: bool = False) -> bytes:
    file = io.BytesIO()
    scipy.io.savemat(file, values, do_compression=compressed)
    return file.getvalue()


@pytest.mark.parametrize("compressed", [False, True])
def test_values_are_those_of_scipy(compressed: bool) -> None:
    whole = saved(content(), compressed)
    theirs = scipy.io.loadmat(io.BytesIO(whole), squeeze_me=True)
    names = [name for name in theirs if not name.startswith("__")]
    ours = read_mat5(whole, names)
    assert list(ours) == names
    for name in names:
        assert same(ours[name], theirs[name]), name
    assert ours["bounding_boxes"][1]["imgName"].item() == ""
    assert list(read_mat5(whole, ["text", "not there"])) == ["text"]


@pytest.mark.skipif(not SCIPY_FILES, reason="this SciPy came without the files of its tests")
def test_files_of_every_matlab_that_scipy_knows() -> None:
    """Numbers, text, cells and structs of MATLAB 5.3 to 7.4, of both byte orders."""
    read = 0
    for path in SCIPY_FILES:
        try:
            theirs = scipy.io.loadmat(path, squeeze_me=True)
        except Exception:  # what SciPy refuses needs no value here
            continue
        for name, value in theirs.items():
            try:
                ours = read_mat5(path.read_bytes(), [name]).get(name)
            except ValueError as error:
                expected = ("a sparse", "a function", "an object", "two fields", "version from 5")
                assert any(word in str(error) for word in expected), (path.name, error)  # noqa: PT017
                continue
            if name.startswith("__") or path.name == "test_empty_struct.mat":
                continue  # no variable; a struct without fields
            read += 1
            if ours is None or not same(np.asarray(ours).astype(np.asarray(value).dtype), value):
                pytest.fail(f"{path.name}, {name}: found {ours!r}, expected {value!r}")
    assert read > 50


def test_the_files_of_cofw68(shared: Path) -> None:
    files = sorted((shared / "samples" / "cofw68").glob("*.mat"))
    assert files
    for path in files:
        theirs = scipy.io.loadmat(path, squeeze_me=True)
        ours = read_mat5(path.read_bytes(), ["Points", "Occ"])
        assert same(ours["Points"], theirs["Points"])
        assert same(ours["Occ"], theirs["Occ"])


# ---- by hand -----------------------------------------------------------------------------------


def element(kind: int, payload: bytes) -> bytes:
    return struct.pack("<II", kind, len(payload)) + payload + bytes(-len(payload) % 8)


def matrix(kind: int, shape: tuple[int, ...], *parts: bytes, name: bytes = b"a") -> bytes:
    head = element(6, struct.pack("<II", kind, 0))
    head += element(5, struct.pack(f"<{len(shape)}i", *shape)) + element(1, name)
    return element(14, head + b"".join(parts))


def compressed(payload: bytes) -> bytes:
    packed = zlib.compress(payload)
    return struct.pack("<II", 15, len(packed)) + packed


HEADER = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
DOUBLES = element(9, struct.pack("<2d", 1, 2))
DEEP = matrix(1, (0, 0))
for _ in range(10):
    DEEP = matrix(1, (1, 1), DEEP)
FIELDS = element(5, struct.pack("<i", 4))
SHORT = element(14, element(6, bytes(8)) + element(5, bytes(8)))

BAD = {
    "nothing": (b"", "its first 128 bytes"),
    "another file": (b"\x89PNG" * 99, "its first 128 bytes"),
    "7.3": (HEADER[:124] + b"\x00\x02IM", "found one of version 7.3, expected 7 or older"),
    "version": (HEADER[:124] + b"\x07\x01IM", "found version 0x0107"),
    "cut tag": (HEADER + b"\x0e\0\0\0", "truncated: an element at byte 128 has no tag"),
    "cut": (HEADER + matrix(6, (1, 2), DOUBLES)[:-9], "72 bytes at byte 128, 63 are left"),
    "kind": (HEADER + element(9, bytes(8)), "found an element of type 9"),
    "short": (HEADER + struct.pack("<HHI", 1, 5, 0), "short element of 5 bytes"),
    "flags": (HEADER + element(14, element(6, bytes(4))), "found 1 flags of a matrix"),
    "text for flags": (HEADER + element(14, element(1, bytes(8))), "found values of type 1"),
    "one axis": (HEADER + matrix(6, (2,), DOUBLES), r"found the dimensions \(2,\)"),
    "below zero": (HEADER + matrix(6, (-1, -2), DOUBLES), r"found the dimensions \(-1, -2\)"),
    "no name": (HEADER + SHORT, "truncated: an element at byte .* has no tag"),
    "too few": (HEADER + matrix(6, (3, 1), DOUBLES), "found 2 numbers, expected 3 x 1"),
    "overflow": (HEADER + matrix(6, (2**31 - 1,) * 4, DOUBLES), "found 2 numbers, expected 2147"),
    "wraps to 2": (HEADER + matrix(6, (2**30, 2**30, 16, 2), DOUBLES), "found 2 numbers"),
    "odd bytes": (HEADER + matrix(6, (1, 1), element(9, bytes(7))), "7 bytes, expected whole"),
    "twice": (HEADER + 2 * matrix(6, (1, 2), DOUBLES), "found the variable 'a' twice"),
    "sparse": (HEADER + matrix(5, (1, 2), DOUBLES), "found a sparse matrix"),
    "function": (HEADER + matrix(16, (1, 2), DOUBLES), "found a function"),
    "class 40": (HEADER + matrix(40, (1, 2), DOUBLES), "found a matrix of class 40"),
    "cells": (HEADER + matrix(1, (2**15, 2**15)), "found more cells than a file of landmarks"),
    "no cell": (HEADER + matrix(1, (1, 2)), "truncated: an element at byte .* has no tag"),
    "number as cell": (HEADER + matrix(1, (1, 1), DOUBLES), "of type 9, expected a matrix"),
    "deep": (HEADER + DEEP, "found cells in cells 9 deep"),
    "letters": (HEADER + matrix(4, (1, 3), element(16, b"ab")), "found 2 characters, expected 1"),
    "number as text": (HEADER + matrix(4, (1, 2), DOUBLES), "found characters of type 9"),
    "long text": (HEADER + matrix(4, (2**15, 2**15)), "found more characters than"),
    "no width": (HEADER + matrix(2, (1, 1), element(5, bytes(4)), b""), "truncated"),
    "width 0": (HEADER + matrix(2, (1, 1), element(5, bytes(4)), element(1, b"ab")), "2 bytes, 0"),
    "two fields": (HEADER + matrix(2, (1, 1), FIELDS, element(1, b"ab\0\0ab\0\0")), "two fields"),
    "many structs": (HEADER + matrix(2, (2**15, 2**15), FIELDS, element(1, b"ab\0\0")), "more cel"),
    "no zlib": (HEADER + struct.pack("<II", 15, 4) + b"none", "a compressed variable is damaged"),
    "half zlib": (
        HEADER + compressed(matrix(6, (1, 2), DOUBLES)[:-1]),
        "is not of the 80 bytes that it names",
    ),
    "more zlib": (
        HEADER + compressed(matrix(6, (1, 2), DOUBLES) + b"?"),
        "is not of the 80 bytes that it names",
    ),
    "zlib of 4 GB": (
        HEADER + compressed(struct.pack("<II", 14, 2**32 - 8) + matrix(6, (1, 1))[8:]),
        "found more bytes than a file of landmarks has",
    ),
    "check sum": (
        (HEADER + compressed(matrix(6, (1, 2), DOUBLES)))[:-1] + b"?",
        "a compressed variable is damaged",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_one_line(case: str, tmp_path: Path) -> None:
    whole, message = BAD[case]
    path = tmp_path / "bad.mat"
    path.write_bytes(whole)
    with pytest.raises(
        DataError, match=rf"bad\.mat: not a whole MATLAB file: .*{message}"
    ) as caught:
        load_mat(path, "a")
    assert "\n" not in str(caught.value)


def test_what_the_cases_are_made_of_is_right() -> None:
    assert read_mat5(HEADER + matrix(6, (1, 2), DOUBLES), ["a"])["a"].tolist() == [1, 2]
    assert read_mat5(HEADER + compressed(matrix(6, (2, 1), DOUBLES)), ["a"])["a"].tolist() == [1, 2]
    assert read_mat5(HEADER + matrix(4, (1, 2), element(16, b"ab")), ["a"])["a"] == "ab"
    assert read_mat5(HEADER + element(14, b""), ["a"]) == {}


def test_a_small_file_does_not_become_a_large_one() -> None:
    """A megabyte of zlib could be a gigabyte; what is not asked for is not unpacked at all."""
    bomb = HEADER + compressed(element(14, matrix(6, (1, 2), DOUBLES)[8:] + bytes(300 << 20)))
    assert len(bomb) < 1 << 20
    longer = HEADER + compressed(matrix(6, (1, 2), DOUBLES) + bytes(20 << 20))
    tracemalloc.start()
    try:
        assert read_mat5(bomb, ["b"]) == {}
        with pytest.raises(ValueError, match="found more bytes"):
            read_mat5(bomb, ["a"])
        # More than the matrix says: one more byte is enough to see it.
        with pytest.raises(ValueError, match=r"is not of the \d+ bytes that it names"):
            read_mat5(longer, ["a"])
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_a_file_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mat5, "LARGEST", 199)
    with pytest.raises(ValueError, match="found 216 bytes, expected 199 at most"):
        read_mat5(HEADER + matrix(6, (1, 2), DOUBLES) + bytes(8), ["a"])


def test_a_damaged_file_in_the_middle_of_a_folder(tmp_path: Path) -> None:
    from ccdn.data import open_faces

    folder = tmp_path / "test_annotations"
    folder.mkdir()
    points = np.random.default_rng(0).uniform(1, 40, (68, 2))
    for number in (1, 2, 3):
        whole = saved({"Points": points, "Occ": np.zeros((1, 68))})
        (folder / f"{number}_points.mat").write_bytes(whole if number != 2 else whole[:-99])
    with pytest.raises(DataError, match=r"2_points\.mat: not a whole MATLAB file: truncated"):
        open_faces("cofw68", tmp_path, "test")
    with pytest.warns(UserWarning, match="expected 507"):
        faces = open_faces("cofw68", tmp_path, "test", skip_bad=True)
    assert (len(faces), faces.skipped.count) == (2, 1)
