"""JSON whose objects have each key once: Python's reader quietly takes the last of several."""

from __future__ import annotations

import json
from typing import Any


def parse_json(text: str) -> Any:
    """What a JSON text holds. Raises ValueError for one that is none, naming a key that an object
    has twice, and RecursionError for one that is nested without end.
    """
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"found the key {twice[:80]!r} twice in an object")
    return found
