"""Reads MATLAB files, with clear errors if they are missing, damaged or have other content."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ccdn.data.formats.hdf5 import Array, Hdf5File
from ccdn.data.formats.mat5 import LARGEST, read_mat5
from ccdn.data.images import DataError, readable


def load_mat(path: Path, *names: str) -> list[np.ndarray]:
    """Read variables of a MATLAB file of version 5 to 7. Raises DataError naming the file and the
    variable.

    Strings, cells and structs are as `read_mat5` returns them.
    """
    with readable(_existing(path), "a whole MATLAB file", ValueError), path.open("rb") as file:
        found = read_mat5(file.read(LARGEST + 1), names)
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(f"{path}: no variable {missing[0]!r}, expected {', '.join(names)}")
    return [np.asarray(found[name]) for name in names]


@contextmanager
def open_mat73(path: Path, *names: str) -> Iterator[tuple[Hdf5File, list[Array]]]:
    """Open a MATLAB v7.3 file, which is HDF5, and arrays in it; every one is transposed.

    Raises DataError naming the file and the variable, also for errors while it is open.
    """
    try:
        with _existing(path).open("rb") as content:
            file = Hdf5File(content)
            arrays: list[Array] = []
            for name in names:
                found = file.array(name)
                if found is None:
                    raise DataError(f"{path}: no variable {name!r}, expected {', '.join(names)}")
                arrays.append(found)
            yield file, arrays
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror or error}") from None
    except ValueError as error:
        raise DataError(f"{path}: not a whole MATLAB v7.3 file: {error}") from None


def checked_shape(
    array: np.ndarray, shape: tuple[int | None, ...], path: Path, name: str
) -> np.ndarray:
    """A numeric array as float64. Raises DataError for another shape (None: any) or other content.

    A single row or column that was squeezed gets its axis back.
    """
    if len(shape) == 2 and array.ndim == 1 and shape[1] is not None:
        array = array.reshape(-1, shape[1]) if array.size % shape[1] == 0 else array
    fits = array.ndim == len(shape) and all(
        b is None or a == b for a, b in zip(array.shape, shape, strict=True)
    )
    if not fits:
        wanted = " x ".join("any" if side is None else str(side) for side in shape)
        found = " x ".join(map(str, array.shape)) or "a single value"
        raise DataError(f"{path}: found {name} of {found}, expected {wanted}")
    if array.dtype.kind not in "biuf":  # NumPy would convert texts and complex numbers
        raise DataError(f"{path}: found {name} of {array.dtype}, expected numbers")
    return array.astype(np.float64)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise DataError(f"{path}: file not found")
    return path
