"""The commands: `python -m ccdn`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ccdn.cli.command import command

COMMANDS = {
    "ccdn.train": "train a network, or go on with a run",
    "ccdn.evaluate": "measure networks and files of predictions; the paper's tables and figures",
    "ccdn.report": "one HTML page of one or several runs",
    "ccdn.predict": "find faces and their landmarks on pictures, film or a camera",
    "ccdn.activations": "what each excitation looks at",
    "ccdn.export": "write a network as ONNX, .pt2 or .safetensors",
    "ccdn.ablate": "train and measure a grid of networks and seeds",
    "ccdn.models": "weights and multiply-adds of configurations",
    "ccdn.data": "look at data on disk, or write generated faces as a benchmark",
    "ccdn.synthetic_faces": "pictures of generated faces",
}


@command("ccdn")
def main(arguments: Sequence[str] | None = None) -> int:
    """Print the commands; returns the exit code."""
    width = max(map(len, COMMANDS))
    lines = [f"  python -m {name:{width}}  {what}" for name, what in COMMANDS.items()]
    epilog = "\n".join(["commands:", *lines, "", "Each has --help with examples."])
    parser = argparse.ArgumentParser(
        prog="python -m ccdn",
        usage="python -m ccdn.COMMAND [--help]",
        description="Facial landmarks with cross-order cross-semantic networks.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(arguments)
    parser.print_help()
    return 0


if __name__ == "__main__":
    sys.exit(main())
