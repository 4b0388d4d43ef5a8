"""Inspect data on disk or generated faces, or write those as a benchmark: `ccdn data --help`."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ccdn.cli import generated
from ccdn.cli.arguments import number, positive, whole
from ccdn.cli.command import command
from ccdn.data import BENCHMARKS, Benchmark, detect_kind, open_faces
from ccdn.data.augment import PRESETS
from ccdn.data.boxes import BOX_KINDS, face_box
from ccdn.data.crop import crop_matrix, from_unit, to_unit, transform_points
from ccdn.data.dataset import CropDataset
from ccdn.data.drawing import contact_sheet, draw_landmarks, enlarge, write_picture
from ccdn.data.faces import Face, FaceSet, subset_masks
from ccdn.data.headers import picture_header
from ccdn.data.images import DataError
from ccdn.data.layouts import layout_or_none
from ccdn.data.readers.gather import MISSING_POINTS, ORIENTATIONS
from ccdn.runtime.files import address_hint
from ccdn.synthetic_faces import SyntheticFaces, write_protocol
from ccdn.synthetic_faces.benchmarks import PROTOCOLS
from ccdn.synthetic_faces.generator import POSE

COLUMNS = 8
SIDE = 192  # of a picture in the sheet, in pixels

_EXAMPLES = """examples:
  # counts of all splits of a folder against the official ones, and sheets of crops with landmarks
  ccdn data inspect 300w ~/300W --out sheets
  ccdn data inspect auto ~/WFLW --split blur --augmentation strong --out sheets

  # the embedded generator's faces
  ccdn data inspect synthetic --out sheets

  # contact sheets of generated faces, plain and with their landmarks
  ccdn data generate --count 64 --points 68 --out faces
  ccdn data generate --count 32 --points 98 --pose 10 10 5 --occlusion 0 --out faces

  # synthetic faces as WFLW lies on disk, attributes included, and what reads them
  ccdn data synthesize --protocol wflw --train 2000 --test 300 --out synthetic-wflw
  ccdn train --config tiny --data synthetic-wflw model.points=98

exit codes: 0 done, 2 wrong usage or data, 130 interrupted
"""


@command("ccdn data", ValueError, OSError)
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    options = _parser().parse_args(arguments)
    options.run(options)
    return 0


# ---- inspect -----------------------------------------------------------------------------------


def _inspect(options: argparse.Namespace) -> None:
    kind = options.kind
    if kind != "synthetic":
        if options.root is None:
            raise DataError(f"inspect {kind} needs the folder that holds the data")
        if kind == "auto":
            if not Path(options.root).exists():
                hint = address_hint(options.root)
                raise DataError(f"{options.root}: no such file or folder{hint}")
            kind = detect_kind(options.root)
            print(f"{options.root}: read as {kind}")
    benchmark = BENCHMARKS[kind]
    if options.split is not None:
        splits = [options.split]
    else:
        splits = list(benchmark.inspected or benchmark.sizes or ("train",))
    several = len(splits) > 1
    nothing: list[DataError] = []
    for split in splits:
        try:
            with warnings.catch_warnings():
                # The counts below report the same, with found and expected values.
                warnings.simplefilter("ignore" if split in benchmark.sizes else "default")
                faces = _open(kind, split, options)
        except DataError as error:
            if not several:
                raise
            nothing.append(error)
            print(f"{kind} {split}: {error}", file=sys.stderr)
            continue
        _print_counts(faces, benchmark, split)
        _print_crops(faces, options)
        if options.out is not None:
            for preset in dict.fromkeys(["none", options.augmentation]):
                name = f"{split.replace('/', '-')}-{preset}.png"
                write_picture(options.out / name, _sheet(faces, preset, options))
                print(f"  wrote {options.out / name}")
    if len(nothing) == len(splits):
        raise DataError(f"{options.root}: no split of {kind} could be read")


def _open(kind: str, split: str, options: argparse.Namespace) -> FaceSet:
    if kind == "synthetic":
        points = {} if options.points is None else {"points": options.points}
        return SyntheticFaces(options.faces, options.seed, **points)
    return open_faces(
        kind,
        options.root,
        split,
        points=options.points,
        skip_bad=options.skip_bad,
        missing_points=options.missing_points,
        orientation=options.orientation,
    )


def _print_counts(faces: FaceSet, benchmark: Benchmark, split: str) -> None:
    expected, against = benchmark.sizes.get(split), ""
    if expected is not None:
        against = f", as expected {expected}" if len(faces) == expected else ""
        against = against or f", EXPECTED {expected}"
    print(f"{faces.name}: {len(faces)} faces of {faces.points} points{against}")
    if split in benchmark.notes:
        print(f"  {benchmark.notes[split]}")
    everything = [faces.face(index) for index in range(len(faces))]
    groups = Counter(face.group for face in everything)
    absent = [name for name in benchmark.groups.get(split, ()) if name not in groups]
    if len(groups) > 1 or (absent and expected is not None):
        for group, count in sorted([*groups.items(), *((name, 0) for name in absent)]):
            print(f"  {count:6d}  {group or '(top)'}{_of_part(benchmark, group, count)}")
    if expected is not None and len(faces) < expected:
        print(_advice(expected - len(faces), faces.skipped.count))
    for name, mask in subset_masks(faces).items():
        print(f"  {int(mask.sum()):6d}  {name}")
    labelled = [face.visible for face in everything if face.visible is not None]
    if labelled:
        print(f"  {100 * np.mean(np.concatenate(labelled)):.1f} % of the points are visible")
    _print_orientations(faces, everything)
    boxes = sum(face.box is not None for face in everything)
    print(f"  {boxes} with a box of their own, {faces.skipped.count} skipped")
    for reason in faces.skipped.reasons:
        print(f"  skipped: {reason}")


def _advice(missing: int, skipped: int) -> str:
    """What to do about faces of an official split that are not there."""
    here = f", {skipped} of them skipped as bad" if skipped else ""
    return (
        f"  {missing} faces are missing{here}: get them from the authors of the data and put them"
        " where the others lie. Training and evaluation run without them, but the numbers are then"
        " not those of the official split, and the tables say so"
    )


def _print_orientations(faces: FaceSet, everything: Sequence[Face]) -> None:
    """How many pictures have an EXIF orientation, and how it is treated."""
    turned: dict[Path, bool] = {}
    for face in everything:
        try:
            if face.path is not None and picture_header(face.path).orientation != 1:
                upright = getattr(faces, "orient", True) if face.upright is None else face.upright
                turned[face.path] = upright
        except DataError:  # reading the picture reports it
            continue
    if turned:
        count = sum(turned.values())
        print(
            f"  {len(turned)} pictures with an EXIF orientation: {count} turned upright,"
            f" {len(turned) - count} as stored"
        )


def _of_part(benchmark: Benchmark, group: str, count: int) -> str:
    expected = benchmark.sizes.get(group) if group in benchmark.groups else None
    return "" if expected in (None, count) else f" of {expected}"


def _print_crops(faces: FaceSet, options: argparse.Namespace) -> None:
    """How many crops contain all of their landmarks."""
    if options.box == "detector":
        return
    cut, used = [], set()
    for index in range(len(faces)):
        face = faces.face(index)
        box = "gt" if face.box is None else options.box
        used.add(box)
        matrix = crop_matrix(face_box(face, box, options.margin), 1)
        unit = to_unit(transform_points(matrix, face.landmarks.astype(np.float64)), 1)
        if unit.min() < 0 or unit.max() > 1:
            cut.append((max(-unit.min(), unit.max() - 1), face.where))
    boxes = " or ".join(sorted(used, reverse=True))
    print(f"  {len(cut)} crops (box {boxes}, margin {options.margin:g}) cut landmarks off")
    for beyond, where in sorted(cut, reverse=True)[:5]:
        print(f"    by {100 * beyond:.0f} % of the crop: {where}")


def _sheet(faces: FaceSet, preset: str, options: argparse.Namespace) -> np.ndarray:
    whole = all(faces.face(index).box is not None for index in range(len(faces)))
    crops = CropDataset(
        faces,
        size=options.size,
        box=options.box if whole or options.box != "provided" else "gt",
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


# ---- synthesize --------------------------------------------------------------------------------


def _synthesize(options: argparse.Namespace) -> None:
    points, _ = PROTOCOLS[options.protocol]

    def make(count: int, seed: int) -> SyntheticFaces:
        return SyntheticFaces(
            count,
            seed,
            points=points,
            size=options.size,
            pose=tuple(options.pose),
            occlusion=options.occlusion,
        )

    train = make(options.train, options.seed)
    test = make(options.test, options.seed + 1) if options.test else None
    written = write_protocol(options.protocol, options.out, train, test)
    print(f"wrote {written} faces of {points} points to {options.out}, as {options.protocol} lies")


# ---- arguments ---------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ccdn data",
        description="Count faces and draw their landmarks; write synthetic faces as a benchmark.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="inspect|generate|synthesize")
    inspect = commands.add_parser("inspect", help="count faces against the official numbers, draw")
    inspect.set_defaults(run=_inspect)
    inspect.add_argument(
        "kind", choices=("auto", *BENCHMARKS), metavar="NAME", help=" | ".join(BENCHMARKS)
    )
    inspect.add_argument("root", nargs="?", metavar="DIR", help="folder (or file) of the data")
    inspect.add_argument("--split", help="default: all that the benchmark has, else train")
    inspect.add_argument("--points", type=positive, help="landmarks expected")
    inspect.add_argument("--skip-bad", action="store_true", help="skip bad files and count them")
    inspect.add_argument(
        "--missing-points",
        choices=MISSING_POINTS,
        default="error",
        help="how to treat a point at 0 0 or -1 -1 (default: error)",
    )
    inspect.add_argument(
        "--orientation",
        choices=ORIENTATIONS,
        default="auto",
        help="what labels refer to if EXIF rotates the picture (default: by the format)",
    )
    inspect.add_argument(
        "--box", choices=BOX_KINDS, default="provided", help="provided: gt where the data have none"
    )
    inspect.add_argument("--margin", type=number, default=0.25)
    inspect.add_argument("--size", type=positive, default=128, help="side of a crop in pixels")
    inspect.add_argument("--augmentation", choices=tuple(PRESETS), default="newell")
    inspect.add_argument("--seed", type=whole, default=0)
    inspect.add_argument("--faces", type=positive, default=40, help="faces on a sheet")
    inspect.add_argument("--out", type=Path, help="folder for the sheets (default: none are drawn)")

    generate = commands.add_parser(
        "generate", help="draw generated faces, plain and with their landmarks"
    )
    generate.set_defaults(run=generated.generate)
    generated.add_arguments(generate)

    synthesize = commands.add_parser(
        "synthesize", help="write synthetic faces in the official format of a benchmark"
    )
    synthesize.set_defaults(run=_synthesize)
    synthesize.add_argument("--protocol", choices=tuple(PROTOCOLS), required=True)
    synthesize.add_argument("--train", type=positive, default=2000, help="training faces")
    synthesize.add_argument(
        "--test", type=whole, default=300, help="test faces, of seed + 1; 0: none"
    )
    synthesize.add_argument("--seed", type=whole, default=0)
    synthesize.add_argument(
        "--size", type=positive, default=160, help="side of a picture in pixels"
    )
    synthesize.add_argument(
        "--pose",
        type=number,
        nargs=3,
        default=POSE,
        metavar=("YAW", "PITCH", "ROLL"),
        help="largest angles in degrees",
    )
    synthesize.add_argument("--occlusion", type=number, default=0.2, help="share of occluded faces")
    synthesize.add_argument("--out", type=Path, required=True, help="a new folder")
    return parser
