"""JSON and .npz files that may be untrusted or truncated by a crash: DataError for bad ones."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ccdn.data import DataError
from ccdn.data.formats.json_files import parse_json
from ccdn.evaluation.metrics import Array
from ccdn.runtime.untrusted import check_archive

LARGEST = 1 << 29  # bytes of a file's arrays: AFLW's predictions are 15 million a method


def read_json(path: Path, kind: type = dict) -> Any:
    """The content of a JSON file, a dict or a list. Raises DataError, naming the file."""
    try:
        content = parse_json(path.read_text("utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise DataError(f"{path}: not a readable JSON file: {error}") from None
    if not isinstance(content, kind):
        found = type(content).__name__
        raise DataError(f"{path}: expected a {kind.__name__} in JSON, found a {found}")
    return content


def read_results(path: Path, **others: type) -> dict[str, Any]:
    """The results.json that ccdn evaluate wrote: its splits, and `others`, by their names and
    kinds, are there. Raises DataError, naming the file.
    """
    found: dict[str, Any] = read_json(path)
    for key, kind in (*others.items(), ("splits", dict)):
        if not isinstance(found.get(key), kind):
            raise DataError(f"{path}: expected results of ccdn evaluate, found no {key}")
    return found


def read_arrays(path: Path) -> dict[str, Array]:
    """The arrays of an .npz file by their names; nothing in it is executed. Raises DataError,
    naming the file, also for arrays of more than 512 MiB in all.
    """
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError(
                "found a single array or another kind of file, expected several arrays"
            )
        with zipfile.ZipFile(path) as archive:
            check_archive(archive, LARGEST)
        with np.load(path, allow_pickle=False) as loaded:
            arrays = {name: loaded[name] for name in loaded.files}
        for name, array in arrays.items():
            if array.size > LARGEST:  # of a type without bytes: an array of any size takes none
                raise ValueError(f"found {array.size} values of {name}")
        return arrays
    except Exception as error:
        # OSError, BadZipFile, zlib.error, ValueError, MemoryError, depending on the damage
        raise DataError(f"{path}: not a readable .npz file: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
