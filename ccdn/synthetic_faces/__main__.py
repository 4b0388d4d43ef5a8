"""Look at synthetic faces: `python -m ccdn.synthetic_faces --help`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ccdn.cli.command import command
from ccdn.data.drawing import contact_sheet, draw_landmarks, enlarge, write_picture
from ccdn.data.layouts import layout
from ccdn.runtime.files import write_json
from ccdn.synthetic_faces import VERSION, SyntheticFaces
from ccdn.synthetic_faces.anatomy import LAYOUTS
from ccdn.synthetic_faces.generator import POSE

_EXAMPLES = """examples:
  # a contact sheet of 64 faces, plain and with 68 landmarks drawn
  python -m ccdn.synthetic_faces --count 64 --points 68 --out faces

  # 98 landmarks, heads nearly frontal, nothing in front of them
  python -m ccdn.synthetic_faces --count 32 --points 98 --pose 10 10 5 --occlusion 0 --out faces

  # files in the official format of a benchmark: python -m ccdn.data synthesize --help

exit codes: 0 done, 2 wrong usage, 130 interrupted
"""


@command("ccdn.synthetic_faces", ValueError, OSError)
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m ccdn.synthetic_faces",
        description=f"Synthetic faces with exact landmarks (generator version {VERSION}).",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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
    options = parser.parse_args(arguments)
    return _write(options)


def _write(options: argparse.Namespace) -> int:
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
    return 0


if __name__ == "__main__":
    sys.exit(main())
