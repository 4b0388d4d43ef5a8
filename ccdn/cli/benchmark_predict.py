"""How long prediction takes here: `ccdn benchmark-predict`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ccdn.cli.arguments import add_detector, add_weights, positive, tell_bundled
from ccdn.cli.command import command
from ccdn.runtime.progress import bar, counted

if TYPE_CHECKING:
    from ccdn.inference.network import Network

EXAMPLES = """\
examples:
  ccdn benchmark-predict                                the bundled weights, a generated picture
  ccdn benchmark-predict photo.jpg --weights runs/a/last.pt
  ccdn benchmark-predict photo.jpg --onnx face.onnx --rounds 100

A row each for torch with the network as it was trained, for torch with the network prepared for
prediction, as ccdn.Predictor does (batch norms folded, channels last), and for ONNX Runtime.
Columns: the network on one crop; the same for each crop of a batch; a picture from the array to its
faces, with the detector. Every round measures every row once, so that a change of the machine's
load meets all of them. Cells are the least milliseconds of all rounds, by the clock and of CPU. If
the two differ the machine was busy, or several threads worked. Without --onnx the ONNX file is made
first, which takes a while and the packages of `ccdn export`.

exit codes: 0 done, 2 wrong usage, weights or picture, 130 interrupted
"""
SIDES = (640, 480)  # of the generated picture


@command("ccdn benchmark-predict", ValueError, OSError)
def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    options = _parser().parse_args(arguments)
    tell_bundled("ccdn benchmark-predict", options.weights)
    with tempfile.TemporaryDirectory() as folder:
        _run(options, Path(folder))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ccdn benchmark-predict",
        description="Measure prediction: milliseconds a face and a picture.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("photo", nargs="?", metavar="PHOTO", help="default: a generated face")
    add_weights(parser)
    parser.add_argument("--onnx", metavar="FILE", help="the network as ccdn export wrote it")
    parser.add_argument("--rounds", type=positive, default=20, metavar="N", help="default: 20")
    parser.add_argument(
        "--batch-size", type=positive, default=16, metavar="N", help="faces at once (default: 16)"
    )
    parser.add_argument(
        "--threads", type=positive, default=1, metavar="N", help="of the network (default: 1)"
    )
    add_detector(parser)
    return parser


def _run(options: argparse.Namespace, folder: Path) -> None:
    from ccdn.data import read_image
    from ccdn.data.detection import detector
    from ccdn.inference.speed import measure

    image = _generated() if options.photo is None else read_image(Path(options.photo))
    networks = _networks(options, folder)
    rounds = bar(range(options.rounds), "rounds")
    speeds = measure(networks, image, options.detector, options.batch_size, rounds)
    height, width = image.shape[:2]
    faces = next(iter(speeds.values())).faces
    print(
        f"{width} x {height} pixels, {counted(faces, 'face')} by {detector(options.detector).name};"
        f" {counted(options.threads, 'thread')}; the least of {counted(options.rounds, 'round')},"
        " milliseconds by the clock / of CPU"
    )
    heads = ("one face", f"a face of {options.batch_size}", "the picture")
    print(f"{'':20}" + "".join(f"{head:>18}" for head in heads))
    for name, speed in speeds.items():
        cells = (f"{1e3 * t.clock:.1f} / {1e3 * t.cpu:.1f}" for t in speed[:3])
        print(f"{name:20}" + "".join(f"{cell:>18}" for cell in cells))


def _networks(options: argparse.Namespace, folder: Path) -> dict[str, Network]:
    from ccdn.checkpoint.bundled import DEFAULT_WEIGHTS
    from ccdn.checkpoint.load import load_model
    from ccdn.inference.export import export
    from ccdn.inference.onnx_network import OnnxNetwork
    from ccdn.inference.torch_network import TorchNetwork

    weights = DEFAULT_WEIGHTS if options.weights is None else Path(options.weights)
    loaded = load_model(weights)
    found: dict[str, Network] = {
        "torch, as trained": TorchNetwork(*loaded, options.threads, prepare=False),
        "torch, prepared": TorchNetwork(*loaded, options.threads),
    }
    path = folder / "face.onnx" if options.onnx is None else Path(options.onnx)
    try:
        if options.onnx is None:
            print("ccdn benchmark-predict: making the ONNX file", file=sys.stderr)
            export(weights, path, "onnx")
        found["ONNX Runtime"] = OnnxNetwork(path, options.threads)
    except ModuleNotFoundError as error:
        print(f"ccdn benchmark-predict: no row of ONNX Runtime: {error}", file=sys.stderr)
    return found


def _generated() -> np.ndarray:
    """A generated face in the middle of a grey picture, uint8 RGB."""
    from ccdn.synthetic_faces import SyntheticFaces

    width, height = SIDES
    side = height // 2
    image = np.full((height, width, 3), 128, np.uint8)
    face = SyntheticFaces(1, seed=3, size=side, pose=10, occlusion=0).image(0)
    top, left = (height - side) // 2, (width - side) // 2
    image[top : top + side, left : left + side] = face
    return image
