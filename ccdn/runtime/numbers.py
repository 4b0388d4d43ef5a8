"""Numbers in text: Python accepts more forms than any program that writes landmarks uses."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
_WHOLE = re.compile(r"[0-9]+")
_BLANKS = " \t\r\n"
# Longer than any real number; and Python refuses to convert thousands of digits.
_DIGITS = 99


def parse_number(text: str) -> float:
    """The number in a field; nan and inf are accepted.

    Raises ValueError for anything else, including forms that only Python accepts: 1_0.5 and digits
    of other scripts.
    """
    stripped = text.strip(_BLANKS)
    if not (_NUMBER.fullmatch(stripped) or _NOT_FINITE.fullmatch(stripped)):
        raise ValueError(f"found {text[:40]!r}, expected a number")
    return float(stripped)


def is_whole(text: str) -> bool:
    """Whether a text is a non-negative integer in the digits 0 to 9, without a sign."""
    return len(text) <= _DIGITS and _WHOLE.fullmatch(text) is not None
