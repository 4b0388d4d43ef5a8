"""The paper's protocols: which splits of which data fill which of its tables, and which split is
part of which, so that every face is predicted once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ccdn.data import FaceSet, subset_masks
from ccdn.data.readers import aflw, cofw, w300, wflw


@dataclass(frozen=True)
class Protocol:
    """kind: of the data (`ccdn.config.DataConfig.kind`). splits: measured, the first holds all the
    others. table: the paper's, by its name in published.yaml. sizes: of the official splits.
    """

    kind: str
    points: int
    splits: tuple[str, ...]
    table: str
    sizes: dict[str, int]


W300_SIZES = {
    split: sum(w300.PART_SIZES[part] for part in parts) for split, parts in w300.SPLITS.items()
}

PROTOCOLS = {
    "300w": Protocol(
        "300w", 68, ("full", "common", "challenging", "helen", "lfpw"), "table2", W300_SIZES
    ),
    "cofw29": Protocol("cofw", 29, ("test",), "table3", cofw.SIZES),
    "cofw68": Protocol("cofw68", 68, ("test",), "table3", cofw.SIZES_68),
    "aflw": Protocol("aflw", 19, ("test", "frontal"), "table4", aflw.SIZES),
    "wflw": Protocol("wflw", 98, ("test", *wflw.ATTRIBUTES), "table5", wflw.SIZES),
}


def protocol_of(kind: str) -> Protocol | None:
    """The protocol of a kind of data, None where the paper has none."""
    return next((found for found in PROTOCOLS.values() if found.kind == kind), None)


def one_pass(kind: str, splits: Sequence[str]) -> dict[str, list[str]]:
    """The splits to open, each with those that are read off it (itself first where asked for).

    A split that another one of them holds is not opened: 300W's parts of full, WFLW's and AFLW's
    subsets of test.
    """
    wanted = list(dict.fromkeys(splits))
    opened: dict[str, list[str]] = {}
    for split in wanted:
        holders = [other for other in wanted if other != split and _holds(kind, other, split)]
        if not holders:
            opened[split] = []
    for split in wanted:
        if split not in opened:
            opened[next(o for o in opened if _holds(kind, o, split))].append(split)
    return {split: [split, *inside] for split, inside in opened.items()}


def members(kind: str, faces: FaceSet, opened: str, split: str) -> np.ndarray:
    """The indices of a split's faces in the opened split that holds it, (n,) int64."""
    if split == opened:
        return np.arange(len(faces))
    if kind != "300w":
        return np.flatnonzero(subset_masks(faces)[split])
    parts = w300.SPLITS[split]
    return np.flatnonzero([faces.face(i).group in parts for i in range(len(faces))])


def _holds(kind: str, outer: str, inner: str) -> bool:
    if kind == "300w":
        if outer not in w300.SPLITS or inner not in w300.SPLITS:
            return False
        one, other = set(w300.SPLITS[outer]), set(w300.SPLITS[inner])
        # Two names for the same faces (full and test): the first asked for is opened.
        return other < one or (other == one and outer < inner)
    return (
        outer == "test"
        and inner != "test"
        and inner
        in {
            "wflw": wflw.ATTRIBUTES,
            "aflw": ("frontal",),
        }.get(kind, ())
    )
