"""`ccdn data generate`: contact sheets of generated faces."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from ccdn.data.drawing import contact_sheet, draw_landmarks, enlarge, write_picture
from ccdn.data.layouts import layout
from ccdn.runtime.files import write_json
from ccdn.synthetic_faces import SyntheticFaces
from ccdn.synthetic_faces.anatomy import LAYOUTS
from ccdn.synthetic_faces.generator import POSE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the options of `ccdn data generate`."""
    add = parser.add_argument
    add("--count", type=int, default=64, help="faces (default: %(default)s)")
    add("--points", type=int, default=68, choices=LAYOUTS, help="landmarks (default: %(default)s)")
    add("--seed", type=int, default=0, help="another seed, other faces (default: %(default)s)")
    add("--size", type=int, default=160, help="side of a picture in pixels (default: %(default)s)")
    add(
        "--pose",
        type=float,
        nargs=3,
        default=POSE,
        metavar=("YAW", "PITCH", "ROLL"),
        help="largest angles in degrees (default: {:.0f} {:.0f} {:.0f})".format(*POSE),
    )
    add(
        "--occlusion",
        type=float,
        default=0.2,
        help="share of faces with something in front of them (default: %(default)s)",
    )
    add("--columns", type=int, default=8, help="of the contact sheet (default: %(default)s)")
    add("--out", type=Path, required=True, help="folder to write to")


def generate(options: argparse.Namespace) -> None:
    """Write the contact sheets that the options ask for."""
    faces = SyntheticFaces(
        options.count,
        options.seed,
        points=options.points,
        size=options.size,
        pose=tuple(options.pose),
        occlusion=options.occlusion,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    pictures = [faces.image(index) for index in range(len(faces))]
    took = (time.perf_counter() - start) / len(faces)
    drawn = []
    for index, picture in enumerate(pictures):
        large, landmarks = enlarge(picture, faces.face(index).landmarks, 2 * options.size)
        drawn.append(draw_landmarks(large, landmarks, layout(options.points)))
    for name, sheet in (("faces.png", pictures), ("landmarks.png", drawn)):
        write_picture(options.out / name, contact_sheet(sheet, options.columns))
    about = faces.describe()
    write_json(options.out / "faces.json", about)
    print(json.dumps(about, indent=2))
    print(f"{1e3 * took:.1f} ms a face; wrote faces.png and landmarks.png to {options.out}")
