"""Weights and multiply-adds of configurations: `ccdn models`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ccdn.cli.command import command
from ccdn.config import load_config, presets

EXAMPLES = """\
examples:
  ccdn models                                  every preset
  ccdn models paper small model.excitations=2  two of them, with a field changed
  ccdn models mine.yaml --markdown

Weights in thousands, multiply-adds of one crop's forward pass in millions. "by iteration" is the
total if the covariance squeezes were iterated as matrices, as in the paper.

exit codes: 0 done, 2 wrong usage or configuration, 130 interrupted
"""


@command("ccdn models", ValueError)
def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="ccdn models",
        description="Count weights and multiply-adds of configurations.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="CONFIG|model.field=value",
        help="presets, YAML files (default: every preset) and fields to change in all of them",
    )
    parser.add_argument("--markdown", action="store_true", help="as a Markdown table")
    options = parser.parse_args(arguments)
    names = [name for name in options.names if "=" not in name]
    overrides = [name for name in options.names if "=" in name]
    rows = table(names or presets(), overrides)
    print("\n".join(markdown(rows) if options.markdown else aligned(rows)))
    return 0


def table(names: Sequence[str], overrides: Sequence[str] = ()) -> list[list[str]]:
    """A row of titles and one for each configuration."""
    from ccdn.models.count import PARTS, count

    titles = ["configuration", *(f"{part}, K" for part in PARTS), "weights, K"]
    titles += [*(f"{part}, M" for part in PARTS), "multiply-adds, M", "by iteration, M"]
    rows = [titles]
    for name in names:
        found = count(load_config(name, overrides).model)
        weights = list(found.weights.values())
        multiply_adds = list(found.multiply_adds.values())
        whole = sum(multiply_adds)
        row = [f"{value / 1e3:,.1f}" for value in (*weights, sum(weights))]
        row += [f"{value / 1e6:,.2f}" for value in (*multiply_adds, whole, whole + found.iteration)]
        rows.append([name, *row])
    return rows


def markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    rule = "|---|" + "---:|" * (len(rows[0]) - 1)
    return [lines[0], rule, *lines[1:]]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table in a fixed-width font: titles in two lines at most, numbers to the
    right.
    """
    split = [*zip(*(_title(title) for title in rows[0]), strict=True)]
    lines = [*split, *rows[1:]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def _title(title: str) -> tuple[str, str]:
    name, _, unit = title.partition(", ")
    return name, unit
