"""One HTML page of one or several runs: `ccdn report runs/a runs/b`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ccdn.cli.command import command
from ccdn.runtime.errors import ConfigError

EXAMPLES = """\
examples:
  ccdn report runs/a                      writes runs/a/report.html
  ccdn report runs/ccdn runs/fcdn runs/baseline --out compared.html
  ccdn report ours=runs/a rival=evaluation --title 'On 300W'

A run is a folder written by ccdn train, ccdn evaluate, or both. The page is one self-contained
file that needs no network. It shows what the folders contain: scores need an evaluation, curves a
training.

exit codes: 0 done, 2 wrong usage or a folder without results, 130 interrupted
"""


@command("ccdn report", ValueError, OSError)
def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    options = _parser().parse_args(arguments)
    from ccdn.report.html import write_page

    runs = _named(options.runs)
    out = Path(options.out) if options.out else next(iter(runs.values())) / "report.html"
    size = write_page(out, runs, options.title)
    print(f"{out.resolve()} ({size / 1e6:.1f} MB)")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ccdn report",
        description="Write one HTML page with the scores, curves, faces and settings of runs.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", metavar="[NAME=]RUN", help="the folder of a run")
    parser.add_argument("--out", metavar="FILE", help="the page (default: RUN/report.html)")
    parser.add_argument("--title", default="Facial landmarks", help="the page's heading")
    return parser


def _named(texts: Sequence[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        plain = not equals or Path(text).is_dir()
        path = Path(text if plain else rest)
        name = path.resolve().name if plain else name
        if name in found:
            raise ConfigError(f"two runs are called {name!r}: use NAME=RUN")
        found[name] = path
    return found
