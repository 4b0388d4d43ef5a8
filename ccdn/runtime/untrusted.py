"""Bounds for untrusted files: a small file must not take hours of work or all of the memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import yaml

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MOST_SETTINGS, DEEPEST = 10_000, 20  # values of a configuration, and lists in lists
# Characters: the time of Python's integer conversion grows with their square.
_LONGEST_NUMBER = 100


def check_plain(values: Any, most: int = MOST_SETTINGS, deepest: int = DEEPEST) -> None:
    """Raise ValueError if nested mappings and sequences are deeper or larger than this.

    A repeated value counts each time: a value that is referenced ten times, nine levels deep, is a
    billion values once it is copied.
    """
    waiting = [(values, 0)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, Mapping):
            value = list(value.values())
        if not isinstance(value, (list, tuple, set, frozenset)):
            continue
        most -= len(value)
        if most < 0 or depth >= deepest:
            raise ValueError("it holds too many values, or is nested too deep")
        waiting.extend((item, depth + 1) for item in value)


def check_yaml(text: str) -> None:
    """Raise ValueError for YAML whose aliases and merges stand for too many values or that has an
    excessively long number, and yaml.YAMLError for invalid YAML.
    """
    sizes: dict[int, int] = {}

    def size(node: yaml.Node | None) -> int:
        if node is None:
            return 0
        if isinstance(node, yaml.ScalarNode):
            if node.tag.endswith((":int", ":float")) and len(node.value) > _LONGEST_NUMBER:
                raise ValueError(f"found a number of {len(node.value)} characters")
            return 1
        if id(node) not in sizes:
            sizes[id(node)] = MOST_SETTINGS  # a value inside itself would have no end
            parts = node.value
            if isinstance(node, yaml.MappingNode):
                parts = [part for pair in node.value for part in pair]
            sizes[id(node)] = 1 + sum(size(part) for part in parts)
        return sizes[id(node)]

    if size(yaml.compose(text, _LOADER)) > 2 * MOST_SETTINGS:
        raise ValueError("its aliases stand for too many values")


def check_archive(archive: ZipFile, largest: int, stored: bool = False) -> None:
    """Raise ValueError for a zip archive whose parts are larger than this in total or, with
    `stored`, compressed.
    """
    parts = archive.infolist()
    if stored and any(part.compress_type != ZIP_STORED for part in parts):
        raise ValueError("it is compressed")
    size = sum(part.file_size for part in parts)
    if size > largest:
        raise ValueError(f"its parts are {size} bytes, expected {largest} at most")
