"""Which variables of a kernel's loops Triton carries from one round to the next, and which it must.

Triton visits a loop's body once to find out: a variable is carried if the visit leaves it with
another value than it came with. Two that are one value when the loop begins, of which the body
assigns one to the other, look unchanged; each round then reads what was there before the loop.
The interpreter runs Python, which has no such rule, so it is right where a device is wrong.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple


class Loop(NamedTuple):
    """A `for` of a source, and the names that its body changes and that were there before."""

    file: str
    line: int
    last: int  # of the header
    changed: frozenset[str]


def assigned(statements: list[ast.stmt]) -> set[str]:
    """Names that the statements bind, in nested blocks too."""
    return {
        node.id
        for statement in statements
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }


def is_static(loop: ast.For) -> bool:
    return "static_range" in ast.unparse(loop.iter)


def inside(file: str, statements: list[ast.stmt], bound: set[str]) -> Iterator[Loop]:
    """The loops among the statements, where the names are bound."""
    bound = set(bound)
    for statement in statements:
        if isinstance(statement, ast.While):
            raise NotImplementedError(f"{file}:{statement.lineno}: a while loop")
        if isinstance(statement, ast.For):
            if not is_static(statement):
                changed = frozenset(assigned(statement.body) & bound)
                yield Loop(file, statement.lineno, statement.body[0].lineno - 1, changed)
            own = {n.id for n in ast.walk(statement.target) if isinstance(n, ast.Name)}
            yield from inside(file, statement.body, bound | own)
        elif isinstance(statement, ast.If):
            yield from inside(file, statement.body, bound)
            yield from inside(file, statement.orelse, bound)
            bound |= assigned([statement])
        else:
            bound |= assigned([statement])


@cache
def loops_of(file: str) -> tuple[Loop, ...]:
    """Every loop of a file's functions that is a loop on the device."""
    found: list[Loop] = []
    for function in ast.parse(Path(file).read_text()).body:
        if isinstance(function, ast.FunctionDef):
            arguments = {a.arg for a in function.args.args if a.annotation is None}
            found += inside(file, function.body, arguments)
    return tuple(found)


def carried(module: str) -> Iterator[tuple[str, int, set[str]]]:
    """File, line and carried names of every loop in a module as Triton prints it, unoptimised."""
    places = dict(re.findall(r"^(#loc\w*) = loc\((.*)\)$", module, re.M))
    open_loops: list[str | None] = []
    for line in module.splitlines():
        text = line.strip()
        if text.startswith("}"):
            header = open_loops.pop()
            if header is not None:
                place = text.rpartition("loc(")[2].rstrip(")")
                while place.startswith("#") or "(#" in place:  # a name, and where it is
                    place = places[re.search(r"#loc\w*", place)[0]]  # type: ignore[index]
                file, number, _ = place.rsplit(":", 2)
                pairs = re.search(r"iter_args\((.*?)\) ->", header)
                inner = re.findall(r"%(\w+) = ", pairs[1]) if pairs else []
                yield file.strip('"'), int(number), {re.sub(r"_\d+$", "", n) for n in inner}
        if text.endswith("{"):
            open_loops.append(text if re.search(r"(^|= )scf\.for ", text) else None)


def loop_at(file: str, line: int) -> Loop:
    return next(loop for loop in loops_of(file) if loop.line <= line <= loop.last)


def not_carried(module: str) -> tuple[set[Loop], list[str]]:
    """The loops of our sources that a module has, and what they change without carrying it."""
    seen, faults = set(), []
    for file, line, names in carried(module):
        if not file.endswith("_kernels.py"):
            continue
        loop = loop_at(file, line)
        seen.add(loop)
        faults += [
            f"{Path(file).name}:{loop.line}: {name} is not carried"
            for name in sorted(loop.changed - names)
        ]
    return seen, faults
