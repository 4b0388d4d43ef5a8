"""Finds the landmarks of every face in a picture with the bundled weights, and draws them.

python examples/landmarks.py photo.jpg --out landmarks.png

Without a picture it takes a generated face, for which it also prints the error.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2

import ccdn
from ccdn.data import DataError, landmark_box, read_image
from ccdn.evaluation.metrics import nme
from ccdn.synthetic_faces import SyntheticFaces


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=Path, nargs="?", help="default: a generated face")
    parser.add_argument("--weights", type=Path, help="default: the bundled weights")
    parser.add_argument("--seed", type=int, default=3, help="of the generated face")
    parser.add_argument("--out", type=Path, default=Path("landmarks.png"))
    args = parser.parse_args()

    predictor = ccdn.Predictor(args.weights)
    if args.picture is None:
        faces = SyntheticFaces(count=1, size=256, seed=args.seed, points=predictor.layout.points)
        truth = faces.face(0).landmarks
        image = faces.image(0)
        found = predictor(image, landmark_box(truth))
        error = nme(found.landmarks, truth[None])[0]
        print(f"NME {100 * error:.2f} % of the distance between the outer eye corners")
    else:
        try:
            image = read_image(args.picture)
        except DataError as error:
            raise SystemExit(str(error)) from None
        found = predictor(image)
    for face in found:
        yaw, pitch, roll = face.head_pose()
        print(f"score {face.score:.2f}, turned by {yaw:.0f}, {pitch:.0f} and {roll:.0f} degrees")
    print(f"{len(found)} faces, {predictor.layout.points} landmarks each")

    if not cv2.imwrite(str(args.out), cv2.cvtColor(found.draw(image), cv2.COLOR_RGB2BGR)):
        raise SystemExit(f"{args.out}: cannot be written")
    print(f"drawn into {args.out}")


if __name__ == "__main__":
    main()
