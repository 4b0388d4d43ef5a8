"""JSON and .npz files that others may have written, or a crash cut short: DataError for what is
neither.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ccdn.data import DataError
from ccdn.data.json_files import parse_json
from ccdn.evaluation.metrics import Array


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
    """The results.json that ccdn.evaluate wrote: its splits, and `others`, by their names and
    kinds, are there. Raises DataError, naming the file.
    """
    found: dict[str, Any] = read_json(path)
    for key, kind in (*others.items(), ("splits", dict)):
        if not isinstance(found.get(key), kind):
            raise DataError(f"{path}: expected results of ccdn.evaluate, found no {key}")
    return found


def read_arrays(path: Path) -> dict[str, Array]:
    """The arrays of an .npz file by their names; nothing in it is executed. Raises DataError,
    naming the file.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise ValueError("found a single array, expected several with names")
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except Exception as error:
        # OSError, BadZipFile, zlib.error, ValueError, MemoryError: it depends on the damage
        raise DataError(f"{path}: not a readable .npz file: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
