"""Face activation maps (the paper's Fig. 8): `ccdn activations PHOTO --weights W`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ccdn.cli.arguments import add_detector, add_threads, add_weights, parse_box, tell_bundled
from ccdn.cli.command import command
from ccdn.runtime.numbers import is_whole
from ccdn.runtime.progress import counted

EXAMPLES = """\
examples:
  ccdn activations photo.jpg                                with the bundled weights
  ccdn activations photo.jpg --weights runs/a/last.pt       every face that is detected
  ccdn activations photo.jpg --weights runs/a/last.pt --box 40,60,240,260
  ccdn activations photo.jpg --weights runs/a/last.pt --out maps.png --side 320

Writes one PNG (default: PHOTO_activations.png in this folder) with a row per face: the crop with
its landmarks, one map per excitation, and their mean. Red marks the regions that move the landmarks
most from the network's bias; each map has its own scale.

exit codes: 0 done, 2 wrong usage, weights or picture, 3 no face found, 130 interrupted
"""


class NoFace(Exception):  # noqa: N818  (an outcome with its own exit code)
    """A picture in which the detector found no face."""


@command("ccdn activations", ValueError, OSError)
def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    options = _parser().parse_args(arguments)
    out = options.out or f"{Path(options.photo).stem}_activations.png"
    try:
        faces = _run(options, Path(out))
    except NoFace as error:
        print(f"ccdn activations: {error}", file=sys.stderr)
        return 3
    print(f"{options.photo}: {counted(faces, 'face')}; written: {out}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ccdn activations",
        description="Draw where a network looks: an activation map for each excitation.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("photo", metavar="PHOTO")
    add_weights(parser)
    add_detector(parser)
    parser.add_argument(
        "--box", type=parse_box, metavar="X0,Y0,X1,Y1", help="the face's box, in pixels"
    )
    parser.add_argument("--out", metavar="FILE", help="the picture to write")
    parser.add_argument("--side", type=_side, default=192, metavar="N", help="pixels of a map")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    add_threads(parser)
    return parser


def _side(text: str) -> int:
    if not is_whole(text) or not 32 <= int(text) <= 2048:
        raise argparse.ArgumentTypeError(f"expected a whole number from 32 to 2048, found {text!r}")
    return int(text)


def _run(options: argparse.Namespace, out: Path) -> int:
    from ccdn.data import crop_image, crop_matrix, read_image, square_box
    from ccdn.data.drawing import write_picture
    from ccdn.inference.activation_maps import activation_sheet
    from ccdn.inference.loading import is_onnx
    from ccdn.inference.predictor import Predictor, check_box
    from ccdn.runtime.errors import ConfigError
    from ccdn.runtime.torch_threads import threads_for, torch_threads

    if options.weights is not None and is_onnx(options.weights):
        raise ConfigError(
            f"{options.weights}: an ONNX file has no maps, expected the checkpoint it was made from"
        )
    photo = Path(options.photo)
    tell_bundled("ccdn activations", options.weights)
    predictor = Predictor(
        options.weights, options.device, detector=options.detector, threads=options.threads
    )
    image = read_image(photo)
    if options.box is not None:
        check_box(photo, options.box, image)
    if options.box is None:
        boxes = [face.box for face in predictor.predict([image])[0]]
    else:
        boxes = [options.box]
    if not boxes:
        raise NoFace(f"{photo}: no face detected; pass --box x0,y0,x1,y1")
    size, side = predictor.network.traits.size, options.side
    squares = [square_box(box, predictor.network.traits.margin) for box in boxes]
    crops = np.stack([crop_image(image, crop_matrix(square, size), size) for square in squares])
    shown = [crop_image(image, crop_matrix(square, side), side) for square in squares]
    with torch_threads(threads_for(len(crops), options.threads)):
        sheet = activation_sheet(predictor.model, crops, shown, predictor.layout)
    write_picture(out, sheet)
    return len(shown)
