"""`ccdn COMMAND`: one table of commands, each imported when it is called."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from importlib import import_module

from ccdn.cli.command import INTERRUPTED, WRONG, command

# The help line of each command, which the main function of `module_of` runs.
COMMANDS = {
    "train": "train a network, or resume a run",
    "evaluate": "measure networks and files of predictions; the paper's tables and figures",
    "report": "one HTML page of one or several runs",
    "predict": "find faces and their landmarks in pictures, video or a camera's stream",
    "demo": "a page for your browser: landmarks on dropped photographs and of a webcam",
    "benchmark-predict": "milliseconds a face and a picture, with torch and with ONNX Runtime",
    "activations": "draw where each excitation looks",
    "export": "write a network as ONNX, .pt2 or .safetensors",
    "ablate": "train and measure a grid of networks and seeds",
    "models": "weights and multiply-adds of configurations",
    "data": "inspect data on disk; draw generated faces or write them as a benchmark",
    "ops": "which kernels are built, and which will be used",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names; returns its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] not in COMMANDS:
        return _without_command(words)
    try:
        module = import_module(module_of(words[0]))
    except KeyboardInterrupt:  # imports take seconds, and @command only covers what follows
        print(f"ccdn {words[0]}: interrupted", file=sys.stderr)
        return INTERRUPTED
    return int(module.main(words[1:]))


def module_of(name: str) -> str:
    """The module of a command."""
    return f"ccdn.cli.{name.replace('-', '_')}"


@command("ccdn")
def _without_command(words: Sequence[str]) -> int:
    """Print the list of commands, or what is wrong with the first argument."""
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return 0
    if words[0] == "--version":
        from ccdn_ops._version import __version__

        print(f"ccdn {__version__}")
        return 0
    close = difflib.get_close_matches(words[0], COMMANDS, n=1)
    hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(COMMANDS)}"
    print(f"ccdn: no command {words[0]!r}; {hint}", file=sys.stderr)
    return WRONG


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  ccdn {name:{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: ccdn COMMAND [--help]",
            "",
            "Facial landmarks with cross-order cross-semantic networks.",
            "",
            "commands:",
            *lines,
            "",
            "Each has --help with examples. `python -m ccdn` is the same program.",
        ]
    )
