"""JSON whose objects have each key once: Python's reader quietly takes the last of several."""

from __future__ import annotations

import json
from typing import Any


def parse_json(text: str) -> Any:
    """The value of a JSON text. Raises ValueError for invalid JSON and for an object with a
    repeated key, naming the key, and RecursionError for nesting that is too deep.
    """
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"found the key {twice[:80]!r} twice in an object")
    return found
