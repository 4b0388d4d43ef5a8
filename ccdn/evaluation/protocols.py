"""The paper's protocols, and which splits to open so that every face is predicted once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ccdn.data import BENCHMARKS, Benchmark


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


def protocols(benchmarks: Iterable[Benchmark]) -> dict[str, Protocol]:
    """The protocols of the benchmarks that the paper has, by their names."""
    return {
        found.paper.protocol: Protocol(
            found.name, found.points, found.paper.splits, found.paper.table, dict(found.sizes)
        )
        for found in benchmarks
        if found.paper is not None and found.points is not None
    }


PROTOCOLS = protocols(BENCHMARKS.values())


def protocol_of(kind: str) -> Protocol | None:
    """The protocol of a kind of data; None if the paper has none."""
    return next((found for found in PROTOCOLS.values() if found.kind == kind), None)


def one_pass(kind: str, splits: Sequence[str]) -> dict[str, list[str]]:
    """The splits to open, each with those read from it (itself first, if requested).

    A split that another one contains is not opened: 300W's parts of full, WFLW's and AFLW's subsets
    of test.
    """
    holds = BENCHMARKS[kind].holds
    wanted = list(dict.fromkeys(splits))
    opened: dict[str, list[str]] = {}
    for split in wanted:
        holders = [other for other in wanted if other != split and holds(other, split)]
        if not holders:
            opened[split] = []
    for split in wanted:
        if split not in opened:
            opened[next(o for o in opened if holds(o, split))].append(split)
    return {split: [split, *inside] for split, inside in opened.items()}
