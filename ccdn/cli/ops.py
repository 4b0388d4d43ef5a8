"""Which kernels are built and which will be used: `ccdn ops`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ccdn.cli.command import command

EXAMPLES = """\
examples:
  ccdn ops          what is built, the instruction set in use, the backend of every operator
  ccdn ops -v       for every operator and device: kernel, algorithm, bytes, and why no other

exit codes: 0 done, 2 wrong usage, 130 interrupted
"""


@command("ccdn ops", ValueError)
def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="ccdn ops",
        description="Say which kernels are built and which will be used.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="everything")
    options = parser.parse_args(arguments)
    from ccdn_ops.report import report
    from ccdn_ops.summary import summary

    print(report() if options.verbose else summary())
    return 0
