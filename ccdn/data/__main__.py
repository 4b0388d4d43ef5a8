"""Look at what is fed in: ``python -m ccdn.data ROOT --kind 300w --split train --out DIR``.

Prints the numbers of faces and draws sheets of crops with their landmarks: as they are, and as
training would change them.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..drawing import contact_sheet, draw_landmarks, enlarge, write_picture
from . import KINDS, open_faces
from .augment import PRESETS
from .boxes import BOX_KINDS
from .crop import from_unit
from .dataset import CropDataset
from .faces import FaceSet
from .layouts import layout_or_none

COLUMNS = 8
SIDE = 192  # of a picture in the sheet, in pixels


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    options = _parser().parse_args(arguments)
    kind = options.kind or ("synthetic" if options.root is None else "300w")
    made = {"count": options.faces, "seed": options.seed} if kind == "synthetic" else None
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            faces = open_faces(
                kind,
                options.root,
                options.split,
                points=options.points,
                skip_bad=options.skip_bad,
                synthetic=made,
            )
        for warning in caught:
            print(f"warning: {warning.message}", file=sys.stderr)
        _print_counts(faces)
        if options.out is not None:
            for preset in dict.fromkeys(["none", options.augmentation]):
                path = options.out / f"crops-{preset}.png"
                write_picture(path, _sheet(faces, preset, options))
                print(f"wrote {path}")
    except (ValueError, OSError) as error:
        print(f"ccdn.data: {error}", file=sys.stderr)
        return 2
    return 0


def _sheet(faces: FaceSet, preset: str, options: argparse.Namespace) -> np.ndarray:
    crops = CropDataset(
        faces,
        size=options.size,
        box=options.box,
        margin=options.margin,
        augmentation=preset,
        seed=options.seed,
        missing_box="gt",
    )
    random = np.random.default_rng(options.seed)
    chosen = np.sort(random.permutation(len(faces))[: options.faces])
    pictures = []
    for index in chosen.tolist():
        image, landmarks, _ = crops.arrays(index)
        picture, points = enlarge(
            np.ascontiguousarray(image.transpose(1, 2, 0)), from_unit(landmarks, options.size), SIDE
        )
        pictures.append(draw_landmarks(picture, points, layout_or_none(faces.points)))
    captions = [faces.face(index).name[-28:] for index in chosen.tolist()]
    return contact_sheet(pictures, COLUMNS, captions)


def _print_counts(faces: FaceSet) -> None:
    print(f"{faces.name}: {len(faces)} faces of {faces.points} points")
    groups = Counter(faces.face(index).group for index in range(len(faces)))
    if len(groups) > 1:
        for group, count in sorted(groups.items()):
            print(f"  {count:6d}  {group or '(top)'}")
    boxes = sum(faces.face(index).box is not None for index in range(len(faces)))
    print(f"  {boxes} with a box of their own, {faces.skipped.count} skipped")
    for reason in faces.skipped.reasons:
        print(f"  skipped: {reason}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ccdn.data", description="Count faces and draw their crops with landmarks."
    )
    parser.add_argument("root", nargs="?", help="folder (or CSV file) of the data; none: synthetic")
    parser.add_argument(
        "--kind", choices=KINDS, help="default: 300w, or synthetic without a folder"
    )
    parser.add_argument("--split", default="train")
    parser.add_argument("--points", type=int, help="landmarks expected")
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave out bad files and count them"
    )
    parser.add_argument("--box", choices=BOX_KINDS, default="gt")
    parser.add_argument("--margin", type=float, default=0.25)
    parser.add_argument("--size", type=int, default=128, help="side of a crop in pixels")
    parser.add_argument("--augmentation", choices=tuple(PRESETS), default="newell")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faces", type=_positive, default=40, help="faces on a sheet")
    parser.add_argument("--out", type=Path, help="folder for the sheets; none are drawn without it")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, found {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
