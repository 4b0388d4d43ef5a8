"""Values of command lines, and what argparse says of others."""

from __future__ import annotations

import argparse
import math

from ccdn.runtime.numbers import is_whole, parse_number


def positive(text: str) -> int:
    """A whole number from 1."""
    if not is_whole(text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, found {text!r}")
    return int(text)


def whole(text: str) -> int:
    """A whole number from 0."""
    if not is_whole(text):
        raise argparse.ArgumentTypeError(f"expected a whole number from 0, found {text!r}")
    return int(text)


def number(text: str) -> float:
    """A finite number."""
    try:
        found = parse_number(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise argparse.ArgumentTypeError(f"expected a finite number, found {text!r}")
    return found
