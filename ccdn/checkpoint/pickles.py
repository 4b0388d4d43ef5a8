"""What a checkpoint's pickle would build, counted before it is built.

torch reads pickles with `weights_only`, so nothing in them is executed. But nested tuples that each
repeat the next one ten times stand for a billion values. Python visits all of them when it hashes a
tuple that is the key of a dictionary: it hangs, or, if tuples are nested 100 000 deep, it crashes.
"""

from __future__ import annotations

import pickletools
from typing import Any

_MOST = 50_000_000  # values, each counted as often as it is referred to; a checkpoint has 100 000
_DEEPEST = 100  # tuples in tuples
_MARK = pickletools.markobject
_Size = tuple[int, int]  # values, and how deep tuples are nested in them


def check_pickle(content: bytes) -> None:
    """Raise ValueError for a pickle that is damaged or stands for too many values."""
    stack: list[Any] = []
    memo: dict[Any, _Size] = {}
    for code, argument, _ in pickletools.genops(content):
        if "GET" in code.name:
            stack.append(memo.get(argument, (1, 0)))
        elif "PUT" in code.name or code.name == "MEMOIZE":
            memo[len(memo) if argument is None else argument] = _top(stack)
        else:
            used = _take(stack, code)
            size = 1 + sum(values for values, _ in used)
            depth = max((deep for _, deep in used), default=0)
            depth += pickletools.pytuple in code.stack_after
            if size > _MOST or depth > _DEEPEST:
                raise ValueError("it holds too many values, or is nested too deep")
            stack += [_MARK if made is _MARK else (size, depth) for made in code.stack_after]


def _top(stack: list[Any]) -> _Size:
    if not stack or stack[-1] is _MARK:
        raise ValueError("its pickle refers to a value that is not there")
    found: _Size = stack[-1]
    return found


def _take(stack: list[Any], code: pickletools.OpcodeInfo) -> list[_Size]:
    """Take the operands of an instruction from the stack."""
    used: list[_Size] = []
    count = len(code.stack_before)
    if _MARK in code.stack_before:
        count = code.stack_before.index(_MARK)
        while stack and stack[-1] is not _MARK:
            used.append(stack.pop())
        if not stack:
            raise ValueError("its pickle ends a list that it did not begin")
        stack.pop()
    for _ in range(count):
        used.append(_top(stack))
        stack.pop()
    return used
