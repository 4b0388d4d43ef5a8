"""Draw landmarks on pictures: `python -m ccdn.predict IMAGE --weights runs/x/last.pt`."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ccdn.config import ConfigError
from ccdn.progress import bar, plain_warnings

EXAMPLES = """\
examples:
  python -m ccdn.predict photo.jpg --weights runs/a/last.pt      every face that the detector finds
  python -m ccdn.predict photos/ --weights runs/a/last.pt --out drawn
  python -m ccdn.predict face.png --weights runs/a/last.pt --box 40,60,240,260
  python -m ccdn.predict face.png --weights runs/a/last.pt --pts face.pts

For each picture NAME it writes into --out (default: predictions) NAME_landmarks.png, NAME.json and,
for each face, a .pts file (1-based, as 300W's). A box, and the detector's, is that of a face from
brows to chin; the margin of training is added to it.

exit codes: 0 done, 2 wrong usage, weights or pictures, 3 no face found, 130 interrupted; of
several pictures the others are still done
"""


class NoFace(Exception):  # noqa: N818  (an outcome with an exit code of its own)
    """A picture in which the detector found no face."""


@dataclass(frozen=True)
class FoundFace:
    """landmarks: (L, 2) float32 pixels, 0-based. box: (4,) the face's box, before margin and
    squaring.
    """

    landmarks: np.ndarray
    box: np.ndarray


class Predictor:
    """A trained network, ready for pictures.

    weights: a checkpoint of ccdn.train. Raises CheckpointError for a file that is none.
    """

    def __init__(self, weights: str | Path, device: str = "auto", flip_test: bool = False) -> None:
        from ccdn.data import generic_layout
        from ccdn.training.checkpoint import load_model
        from ccdn.training.trainer import pick_device

        self.device = pick_device(device)
        self.model, self.checkpoint = load_model(Path(weights), self.device)
        self.config = self.checkpoint.config
        self.layout = generic_layout(self.config.model.points)
        if flip_test and self.layout.flip is None:
            raise ConfigError(f"no mirror permutation is known for {self.layout.points} points")
        self.flip = self.layout.flip if flip_test else None

    def __call__(
        self, image: np.ndarray, boxes: Sequence[np.ndarray] | None = None
    ) -> list[FoundFace]:
        """Landmarks of every face. image: uint8 (H, W, 3) RGB.

        boxes: (4,) x0 y0 x1 y1 in pixels around each face, brows to chin; None asks the detector.
        """
        import torch

        from ccdn.data import crop_image, crop_matrix, detect_faces, square_box
        from ccdn.evaluation.predictions import crop_to_image, predict_crops

        found = detect_faces(image) if boxes is None else list(boxes)
        if not found:
            return []
        size = self.config.model.input_size
        margin = self.config.data.margin
        matrices = [crop_matrix(square_box(box, margin), size) for box in found]
        crops = np.stack(
            [crop_image(image, matrix, size).transpose(2, 0, 1) for matrix in matrices]
        )
        landmarks = predict_crops(self.model, torch.from_numpy(crops).to(self.device), self.flip)
        return [
            FoundFace(crop_to_image(unit, matrix, size).astype(np.float32), np.asarray(box))
            for unit, matrix, box in zip(landmarks.cpu().numpy(), matrices, found, strict=True)
        ]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    options = _parser().parse_intermixed_args(arguments)
    plain_warnings()
    from ccdn.training.checkpoint import CheckpointError

    try:
        return _run(options)
    except (ConfigError, CheckpointError, OSError, ValueError) as error:
        print(f"ccdn.predict: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ccdn.predict: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ccdn.predict",
        description="Find faces in pictures and draw their landmarks.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("inputs", nargs="+", metavar="IMAGE_OR_FOLDER")
    parser.add_argument(
        "--weights", required=True, metavar="FILE", help="a checkpoint of ccdn.train"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--box", type=parse_box, metavar="X0,Y0,X1,Y1", help="the face's box, in pixels"
    )
    where.add_argument("--pts", metavar="FILE", help="a .pts file whose landmarks give the box")
    parser.add_argument("--out", default="predictions", metavar="DIR", help="where the files go")
    parser.add_argument(
        "--flip-test", action="store_true", help="average with the mirrored picture's landmarks"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    return parser


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


def _run(options: argparse.Namespace) -> int:
    from ccdn.data import DataError, landmark_box, read_pts

    files = _pictures(options.inputs)
    boxes = None
    if options.box is not None:
        boxes = [options.box]
    elif options.pts is not None:
        boxes = [landmark_box(read_pts(options.pts))]
    if boxes is not None and len(files) > 1:
        raise ConfigError(f"--box and --pts go with one picture, found {len(files)}")
    out = Path(options.out)
    _spare_annotations(files, out, options.pts)
    predictor = Predictor(options.weights, options.device, options.flip_test)
    names = _names(files)
    code = done = 0
    for path in bar(files, "pictures"):
        try:
            count = _one(predictor, path, boxes, out, names[path])
            done += 1
            if len(files) == 1:
                print(f"{path}: {count} {'face' if count == 1 else 'faces'}")
        except NoFace as error:
            print(f"ccdn.predict: {error}", file=sys.stderr)
            code = code or 3
        except DataError as error:
            print(f"ccdn.predict: {error}", file=sys.stderr)
            code = 2
    if len(files) > 1:
        print(f"{len(files)} pictures, faces found in {done}")
    if done:
        print(f"written to {options.out}")
    return code


def _pictures(inputs: Sequence[str]) -> list[Path]:
    from ccdn.data import DataError
    from ccdn.data.images import IMAGE_SUFFIXES

    files: list[Path] = []
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            inside = [p for p in sorted(path.iterdir()) if p.suffix.lower() in IMAGE_SUFFIXES]
            inside = [p for p in inside if not p.name.startswith(".")]
            if not inside:
                kinds = ", ".join(IMAGE_SUFFIXES)
                raise DataError(f"{path}: expected pictures ({kinds}) in the folder, found none")
            files += inside
        else:
            files.append(path)
    return list(dict.fromkeys(files))


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


def check_box(path: Path, box: np.ndarray, image: np.ndarray) -> None:
    """Raise DataError for a box that does not touch the picture or is far larger than it."""
    from ccdn.data import DataError

    height, width = image.shape[:2]
    inside = box[0] < width and box[1] < height and box[2] > 0 and box[3] > 0
    if not inside or float((box[2:] - box[:2]).max()) > 5 * max(height, width):
        x0, y0, x1, y1 = (float(value) for value in box)
        raise DataError(
            f"{path}: found the box {x0:g},{y0:g},{x1:g},{y1:g}, expected one that overlaps the"
            f" picture of {width} x {height} pixels and is at most five times as large"
        )


def _one(
    predictor: Predictor, path: Path, boxes: list[np.ndarray] | None, out: Path, name: str
) -> int:
    from ccdn.data import read_image, write_pts
    from ccdn.drawing import draw_box, draw_landmarks, write_picture
    from ccdn.files import write_json

    image = read_image(path)
    for box in boxes or ():
        check_box(path, box, image)
    faces = predictor(image, boxes)
    if not faces:
        raise NoFace(f"{path}: the detector found no face; --box x0,y0,x1,y1 tells where one is")
    drawn = image
    records: list[dict[str, Any]] = []
    for i, face in enumerate(faces):
        drawn = draw_box(drawn, face.box)
        drawn = draw_landmarks(drawn, face.landmarks, predictor.layout)
        pts = f"{name}.pts" if len(faces) == 1 else f"{name}_{i + 1}.pts"
        write_pts(out / pts, face.landmarks)
        landmarks = np.round(face.landmarks.astype(np.float64), 3).tolist()
        box = np.round(face.box.astype(np.float64), 3).tolist()
        records.append({"box": box, "landmarks": landmarks, "pts": pts})
    write_picture(out / f"{name}_landmarks.png", drawn)
    write_json(
        out / f"{name}.json",
        {
            "image": str(path),
            "width": image.shape[1],
            "height": image.shape[0],
            "coordinates": "pixels, 0-based, x right, y down; .pts files are 1-based",
            "box_source": "detector" if boxes is None else "given",
            "faces": records,
        },
    )
    return len(faces)


if __name__ == "__main__":
    sys.exit(main())
