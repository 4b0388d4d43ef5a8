"""Reading MATLAB files: one that is missing, damaged or of another content says so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .images import DataError


def load_mat(path: Path, *names: str) -> list[np.ndarray]:
    """Read variables of a MATLAB file up to v7. Raises DataError naming the file and the variable.

    Strings and structs come as scipy.io.loadmat gives them with its cells squeezed.
    """
    import scipy.io

    try:
        content = scipy.io.loadmat(str(_existing(path)), squeeze_me=True, variable_names=names)
    except NotImplementedError:
        raise DataError(
            f"{path}: a MATLAB v7.3 file, expected v7 or older; save it with '-v7'"
        ) from None
    except Exception as error:  # scipy's parser raises anything on damaged files
        raise DataError(f"{path}: not a MATLAB file: {_one_line(error)}") from None
    missing = [name for name in names if name not in content]
    if missing:
        raise DataError(f"{path}: no variable {missing[0]!r}, expected {', '.join(names)}")
    return [np.asarray(content[name]) for name in names]


@contextmanager
def open_mat73(path: Path, *names: str) -> Iterator[list[Any]]:
    """Open datasets of a MATLAB v7.3 file, which is HDF5; every array in it is transposed.

    Raises DataError naming the file and the variable, also for what goes wrong while it is open.
    """
    import h5py

    try:
        with h5py.File(_existing(path), "r") as file:
            missing = [name for name in names if not isinstance(file.get(name), h5py.Dataset)]
            if missing:
                raise DataError(f"{path}: no variable {missing[0]!r}, expected {', '.join(names)}")
            yield [file[name] for name in names]
    except (OSError, RuntimeError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a whole MATLAB v7.3 file: {_one_line(error)}") from None


def checked_shape(
    array: np.ndarray, shape: tuple[int | None, ...], path: Path, name: str
) -> np.ndarray:
    """A numeric array as float64. Raises DataError for another shape (None: any) or other content.

    A single row or column that was squeezed is given back its axis.
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
    try:
        return array.astype(np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{path}: found {name} of {array.dtype}, expected numbers") from None


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise DataError(f"{path}: file not found")
    return path


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
