"""The .pts annotation format of 300W.

::

    version: 1
    n_points:  68
    {
    70.1836 87.4745
    ...
    }

Coordinates in the file are 1-based (MATLAB); here they are 0-based, the centre of a pixel at
integers. Blank lines, CRLF line ends and a byte order mark are accepted, nothing else is.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ccdn.data.faces import is_coordinate
from ccdn.data.images import DataError
from ccdn.runtime.files import address_hint, atomic_write
from ccdn.runtime.numbers import is_whole, parse_number


def read_pts(path: str | Path, points: int | None = None) -> np.ndarray:
    """Read landmarks from a .pts file: (L, 2) float32, 0-based pixels.

    `points` is the number expected, any when None. Raises DataError naming the file, the line,
    what was found and what was expected.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: annotation not found{address_hint(path)}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not a text file, expected a .pts annotation") from None
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror or error}") from None
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
    lines = [(number, line) for number, line in lines if line]

    declared, body = _read_header(path, lines)
    if points is not None and declared[1] != points:
        raise DataError(
            f"{path}, line {declared[0]}: found n_points {declared[1]}, expected {points}"
        )
    rows = []
    closed = False
    for number, line in body:
        if closed:
            raise DataError(f"{path}, line {number}: found {line[:40]!r} after the closing brace")
        if line == "}":
            closed = True
        else:
            rows.append(_read_point(path, number, line))
    if not closed:
        raise DataError(
            f"{path}: truncated: found {len(rows)} points and no closing brace, "
            f"expected {declared[1]} points and a closing brace"
        )
    if len(rows) != declared[1]:
        raise DataError(f"{path}: found {len(rows)} points, expected n_points = {declared[1]}")
    return (np.array(rows, dtype=np.float64) - 1.0).astype(np.float32)


def write_pts(path: str | Path, landmarks: np.ndarray) -> None:
    """Write landmarks (L, 2), 0-based pixels, as a .pts file; the file appears whole or not at all.

    Raises ValueError when the array is not (L, 2) with L >= 1 or not finite.
    """
    path = Path(path)
    values = np.asarray(landmarks, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != 2 or len(values) == 0:
        raise ValueError(
            f"{path}: found landmarks of shape {values.shape}, expected (L, 2), L >= 1"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{path}: found NaN or infinite landmarks, expected finite ones")
    rows = "".join(f"{x + 1.0:.6f} {y + 1.0:.6f}\n" for x, y in values)
    text = f"version: 1\nn_points:  {len(values)}\n{{\n{rows}}}\n"
    with atomic_write(path) as file:
        file.write(text.encode("ascii"))


_Lines = list[tuple[int, str]]


def _read_header(path: Path, lines: _Lines) -> tuple[tuple[int, int], _Lines]:
    """Return (line number, n_points) and the lines after the opening brace."""
    if not lines:
        raise DataError(f"{path}: empty file, expected a .pts annotation")
    declared = None
    for position, (number, line) in enumerate(lines):
        if line == "{":
            if declared is None:
                raise DataError(f"{path}, line {number}: found no 'n_points:' before the brace")
            return declared, lines[position + 1 :]
        key, colon, value = line.partition(":")
        key, value = key.strip().lower(), value.strip()
        if not colon or key not in ("version", "n_points"):
            raise DataError(
                f"{path}, line {number}: found {line[:40]!r}, "
                "expected 'version: 1', 'n_points: <count>' or '{'"
            )
        if key == "n_points":
            # No face has so many points.
            if not (is_whole(value) and len(value) < 10 and int(value) > 0):
                raise DataError(
                    f"{path}, line {number}: found n_points {value[:40]!r}, "
                    "expected a positive whole number"
                )
            declared = (number, int(value))
        elif value not in ("1", "1.0"):
            raise DataError(f"{path}, line {number}: found version {value[:40]!r}, expected 1")
    raise DataError(f"{path}: truncated: found no opening brace after the header")


def _read_point(path: Path, number: int, line: str) -> tuple[float, float]:
    fields = line.split()
    if len(fields) != 2:
        raise DataError(
            f"{path}, line {number}: found {len(fields)} fields ({line[:40]!r}), expected 'x y'"
        )
    try:
        x, y = parse_number(fields[0]), parse_number(fields[1])
    except ValueError:
        raise DataError(
            f"{path}, line {number}: found {line[:40]!r}, expected two numbers"
        ) from None
    if not (is_coordinate(x) and is_coordinate(y)):
        raise DataError(f"{path}, line {number}: found {line[:40]!r}, expected finite numbers")
    return x, y
