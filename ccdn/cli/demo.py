"""A page on this machine for looking at faces: `ccdn demo`."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Sequence

from ccdn.cli.arguments import (
    add_detector,
    add_flip_test,
    add_min_score,
    add_weights,
    tell_bundled,
    whole,
)
from ccdn.cli.command import command

PORT = 8642
EXAMPLES = """\
examples:
  ccdn demo                                 opens http://127.0.0.1:8642/ in your browser
  ccdn demo --weights runs/a/last.pt --min-score 0.3
  ccdn demo --port 0 --no-browser           takes a free port and prints the address

Drop a photograph on the page, paste it or choose its file, or turn the webcam on: the page shows
landmarks, scores, spread and head pose. It is served to this machine alone. Pictures stay in
memory, are forgotten once they are answered, and go nowhere else.

On a machine without a screen, forward its port, and open the same address at home:
  ssh -L 8642:127.0.0.1:8642 HOST

exit codes: 2 wrong usage, weights or port, 130 ended by Ctrl-C, 143 terminated
"""


@command("ccdn demo", ModuleNotFoundError, ValueError, OSError)
def main(arguments: Sequence[str] | None = None) -> int:
    """The command; it ends by a signal, or returns the exit code of an error."""
    options = _parser().parse_args(arguments)
    _check_extra()
    from ccdn.inference.demo.app import application
    from ccdn.inference.demo.server import address, has_screen, listening, open_browser, serve
    from ccdn.inference.predictor import Predictor

    server = listening(options.port)
    with server:
        tell_bundled("ccdn demo", options.weights)
        predictor = Predictor(
            options.weights,
            options.device,
            options.flip_test,
            detector=options.detector,
            min_score=options.min_score,
        )
        url = address(server)
        print(f"{url} shows faces in your pictures; Ctrl-C ends it", flush=True)
        if options.browser and has_screen():
            open_browser(url)
        serve(application(predictor), server)
    return 0


def _parser() -> argparse.ArgumentParser:

    parser = argparse.ArgumentParser(
        prog="ccdn demo",
        description="Open a page on this machine that shows the faces in pictures and of a webcam.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_weights(parser, onnx=True)
    add_detector(parser)
    add_min_score(parser)
    add_flip_test(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--port",
        type=_port,
        default=PORT,
        metavar="N",
        help=f"where the page is; 0 takes a free port (default: {PORT})",
    )
    parser.add_argument(
        "--no-browser", dest="browser", action="store_false", help="only print the address"
    )
    return parser


def _port(text: str) -> int:
    found = whole(text)
    if found > 65535:
        raise argparse.ArgumentTypeError(f"expected a port of 0 to 65535, found {text}")
    return found


def _check_extra() -> None:
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(
            f"the page needs {' and '.join(missing)}; `pip install '.[demo]'` in the clone"
        )
