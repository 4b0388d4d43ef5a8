"""Whether a split has as many faces as the benchmark's authors say."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

from ccdn.data.images import DataError


def check_split(benchmark: str, split: str, splits: Mapping[str, object]) -> None:
    """Raise DataError for a split that the benchmark does not have."""
    if split not in splits:
        raise DataError(f"{benchmark} has no split {split!r}, expected one of {', '.join(splits)}")


def check_size(
    root: Path, benchmark: str, split: str, found: int, sizes: Mapping[str, int]
) -> None:
    """Warn where a split is not of its official size, with found and expected."""
    if found != sizes[split]:
        warnings.warn(
            f"{root}: the split {split!r} of {benchmark} is not the official one: found {found} "
            f"faces, expected {sizes[split]}",
            stacklevel=3,
        )
