"""Landmarks on pictures and video: `python -m ccdn.predict INPUT`."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ccdn.arguments import positive
from ccdn.command import command
from ccdn.config import ConfigError
from ccdn.predictor import Predictor, check_box
from ccdn.progress import bar, counted

if TYPE_CHECKING:
    from ccdn.inputs import Source
    from ccdn.outputs import StillResults
    from ccdn.training.processes import Processes

EXAMPLES = """\
examples:
  python -m ccdn.predict photo.jpg                               with the weights that ship
  python -m ccdn.predict photo.jpg --weights runs/a/last.pt      every face that the detector finds
  python -m ccdn.predict photos/ --weights runs/a/last.pt --out drawn --write picture,csv
  python -m ccdn.predict face.png --weights runs/a/last.pt --box 40,60,240,260
  python -m ccdn.predict face.png --weights runs/a/last.pt --pts face.pts
  python -m ccdn.predict film.mp4 --weights runs/a/last.pt
  python -m ccdn.predict camera:0 --weights runs/a/last.pt --show
  torchrun --nproc-per-node 4 -m ccdn.predict photos/            the inputs shared by 4 processes

For each picture NAME it writes into --out (default: predictions) NAME_landmarks.png, NAME.json and,
for each face, a .pts file (1-based, as 300W's); for a video NAME_landmarks.mp4 and NAME.json. With
--write csv all pictures' landmarks go into landmarks.csv, a video's into NAME.csv. A box, and the
detector's, is that of a face from brows to chin; the margin of training is added to it.

exit codes: 0 done, 1 some inputs could not be read (they are named, the others are done), 2 wrong
usage or weights, 3 no face found anywhere, 130 interrupted
"""


class NoFace(Exception):  # noqa: N818  (an outcome with an exit code of its own)
    """A picture in which the detector found no face."""


@command("ccdn.predict", ValueError, OSError)
def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    options = _parser().parse_intermixed_args(arguments)
    return _run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ccdn.predict",
        description="Find faces in pictures or video and draw their landmarks.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="a picture, a folder, a video or camera:N"
    )
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="a checkpoint of ccdn.train or a safetensors file of ccdn.export (default: those that"
        " ship, trained on generated faces alone)",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--box", type=parse_box, metavar="X0,Y0,X1,Y1", help="the face's box, in pixels"
    )
    where.add_argument("--pts", metavar="FILE", help="a .pts file whose landmarks give the box")
    parser.add_argument("--out", default="predictions", metavar="DIR", help="where the files go")
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
        "--flip-test", action="store_true", help="average with the mirrored picture's landmarks"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    return parser


def _formats(text: str) -> set[str]:
    from ccdn.outputs import FORMATS

    found = set(text.split(","))
    if not found <= set(FORMATS):
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(FORMATS)}, found {text!r}")
    return found


def parse_box(text: str) -> np.ndarray:
    """A box x0,y0,x1,y1 of the command line, (4,); argparse tells what is wrong with another."""
    try:
        box = np.array([float(part) for part in text.split(",")])
    except ValueError:
        box = np.zeros(0)
    if box.shape != (4,) or not np.isfinite(box).all() or not (box[:2] < box[2:]).all():
        raise argparse.ArgumentTypeError(
            f"expected x0,y0,x1,y1 with x0 < x1 and y0 < y1, found {text!r}"
        )
    return box


@dataclass
class _Tally:
    """What became of the inputs. faces: found in all of them."""

    faces: int = 0
    written: int = 0
    empty: int = 0
    bad: list[str] = field(default_factory=list)

    def add_bad(self, error: Exception) -> None:
        self.bad.append(str(error))
        print(f"ccdn.predict: {error}", file=sys.stderr)

    @classmethod
    def of_all(cls, parts: Sequence[_Tally]) -> _Tally:
        return cls(
            sum(part.faces for part in parts),
            sum(part.written for part in parts),
            sum(part.empty for part in parts),
            [line for part in parts for line in part.bad],
        )


def _run(options: argparse.Namespace) -> int:
    from ccdn.training.processes import processes

    with processes(options.device) as group:
        return _predict(options, group)


def _predict(options: argparse.Namespace, group: Processes) -> int:
    """Input i is the work of process i modulo their number; the first writes what holds all."""
    from ccdn.data import DataError
    from ccdn.default_weights import about
    from ccdn.inputs import sources
    from ccdn.outputs import StillResults
    from ccdn.training.optimisation import pick_device

    found = sources(options.inputs)
    boxes = _given_boxes(options, found)
    out = Path(options.out)
    stills = [source.path for source in found if not source.is_stream]
    _spare_annotations(stills, out, options.pts)
    if options.weights is None and group.first:
        print(f"ccdn.predict: no --weights, so with those that ship: {about()}", file=sys.stderr)
    device = str(pick_device(options.device, group.local_rank))
    predictor = Predictor(options.weights, device, options.flip_test, options.batch_size)
    names = _names([source.path for source in found])
    tally = _Tally()
    mine = found[group.rank :: group.size]
    if stills:
        source_of_boxes = "detector" if boxes is None else "given"
        results = StillResults(out, options.write, predictor.layout, source_of_boxes)
        files = [source.path for source in mine if not source.is_stream]
        shown = bar(files, "pictures") if group.first else files
        _predict_stills(predictor, shown, boxes, options, results, names, tally)
        results.close(group, stills)
    for source in mine:
        if source.is_stream:
            try:
                _predict_stream(predictor, source, options, names[source.path], tally)
            except DataError as error:
                tally.add_bad(error)
    tally = _Tally.of_all(group.gather(tally))
    if len(found) > 1 and group.first:
        print(
            f"{len(found)} inputs: {tally.written} written, {tally.faces} faces,"
            f" {tally.empty} without a face, {len(tally.bad)} not readable"
        )
    if tally.written and group.first:
        print(f"written to {options.out}")
    if tally.bad:
        return 1
    return 0 if tally.faces else 3


def _given_boxes(options: argparse.Namespace, found: Sequence[Source]) -> list[np.ndarray] | None:
    from ccdn.data import landmark_box, read_pts

    if options.box is None and options.pts is None:
        return None
    if len(found) > 1 or found[0].is_stream:
        what = "a video" if found[0].is_stream else len(found)
        raise ConfigError(f"--box and --pts go with one picture, found {what}")
    return [options.box if options.box is not None else landmark_box(read_pts(options.pts))]


def _predict_stills(
    predictor: Predictor,
    files: Iterable[Path],
    boxes: list[np.ndarray] | None,
    options: argparse.Namespace,
    results: StillResults,
    names: dict[Path, str],
    tally: _Tally,
) -> None:
    """Pictures one after the other, their faces through the network in batches."""
    waiting: list[tuple[Path, np.ndarray, list[np.ndarray]]] = []
    for path, image in _images(files, tally):
        if boxes is not None:
            _check_given(path, boxes[0], image)
        waiting.append((path, image, predictor.detect(image) if boxes is None else boxes))
        faces = sum(len(found) for _, _, found in waiting)
        if faces >= options.batch_size or len(waiting) >= options.batch_size:
            _flush(predictor, waiting, results, names, tally, len(names) == 1)
    _flush(predictor, waiting, results, names, tally, len(names) == 1)


def _images(files: Iterable[Path], tally: _Tally) -> Iterator[tuple[Path, np.ndarray]]:
    """Each picture that can be read; the others are reported."""
    from ccdn.data import DataError, read_image

    for path in files:
        try:
            image = read_image(path)
        except DataError as error:
            tally.add_bad(error)
            continue
        yield path, image


def _flush(
    predictor: Predictor,
    waiting: list[tuple[Path, np.ndarray, list[np.ndarray]]],
    results: StillResults,
    names: dict[Path, str],
    tally: _Tally,
    single: bool,
) -> None:
    images = [image for _, image, _ in waiting]
    found = predictor.landmarks(images, [boxes for _, _, boxes in waiting])
    for (path, image, _), faces in zip(waiting, found, strict=True):
        count = len(faces.boxes)
        if not count:
            tally.empty += 1
            print(
                f"ccdn.predict: {path}: the detector found no face; --box x0,y0,x1,y1 tells where"
                " one is",
                file=sys.stderr,
            )
        elif single:
            print(f"{path}: {counted(count, 'face')}")
        results.add(path, names[path], image, faces)
        tally.written += 1
        tally.faces += count
    waiting.clear()


def _predict_stream(
    predictor: Predictor, source: Source, options: argparse.Namespace, name: str, tally: _Tally
) -> None:
    """The frames of a video or camera; the files are finished also when it is interrupted."""
    from ccdn.data.images import cv2
    from ccdn.inputs import Stream
    from ccdn.outputs import StreamResults

    stream = Stream(source)
    results = StreamResults(Path(options.out), name, options.write, predictor.layout, stream.rate)
    # A camera's picture is shown at once; a file's faces go through the network in batches.
    together = 1 if options.show or source.camera is not None else options.batch_size
    waiting: list[np.ndarray] = []
    frames = seen = 0
    ended = False

    def flush() -> None:
        nonlocal seen, ended
        found = predictor.landmarks(waiting, [predictor.detect(image) for image in waiting])
        for image, faces in zip(waiting, found, strict=True):
            drawn = results.add(image, faces)
            seen += len(faces.boxes)
            if options.show:
                cv2.imshow(name, drawn[:, :, ::-1])
                ended = ended or cv2.waitKey(1) & 0xFF == ord("q")
        waiting.clear()

    try:
        counts = [count for count in (stream.count, options.frames) if count is not None]
        total = min(counts, default=None)
        for frame in bar(stream.frames(options.frames), name, total):
            waiting.append(frame)
            frames += 1
            if len(waiting) >= together:
                flush()
            if ended:
                break
        flush()
    finally:
        stream.close()
        results.close(source.path)
        if options.show:
            cv2.destroyAllWindows()
    tally.written += 1
    tally.faces += seen
    tally.empty += seen == 0
    print(f"{source.path}: {seen} faces in {frames} frames")


def _check_given(path: Path, box: np.ndarray, image: np.ndarray) -> None:
    from ccdn.data import DataError

    try:
        check_box(path, box, image)
    except DataError as error:  # of the command line, not of the picture
        raise ConfigError(str(error)) from None


def _names(files: Sequence[Path]) -> dict[Path, str]:
    """A name for the results of each picture: its own, with its suffix where two pictures share
    it, numbered where they share that too.

    A picture with several faces has results NAME_1, NAME_2, ...: a picture of such a name, beside
    one called NAME, takes its suffix into its name as well.
    """
    stems = Counter(path.stem for path in files)
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in files:
        first, _, number = path.stem.rpartition("_")
        mistaken = number.isdecimal() and first in stems
        plain = stems[path.stem] == 1 and not mistaken
        name = wanted = path.stem if plain else path.name.replace(".", "_")
        again = 1
        while name in taken:
            again += 1
            name = f"{wanted}_file{again}"
        taken.add(name)
        names[path] = name
    return names


def _spare_annotations(files: Sequence[Path], out: Path, pts: str | None) -> None:
    """Raise ConfigError where the results would replace landmarks that lie beside the pictures."""
    beside = [path.with_suffix(".pts") for path in files] + ([Path(pts)] if pts else [])
    for path in beside:
        if path.exists() and path.parent.resolve() == out.resolve():
            raise ConfigError(f"--out {out} holds {path.name}: expected a folder without it")


if __name__ == "__main__":
    sys.exit(main())
