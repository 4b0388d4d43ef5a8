"""Finds the landmarks of every face in a picture with the bundled weights, and draws them.

python examples/landmarks.py photo.jpg --out landmarks.png

Without a picture it takes a generated face, for which it also prints the error.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

import ccdn
from ccdn.data import landmark_box
from ccdn.evaluation.metrics import nme
from ccdn.synthetic_faces import SyntheticFaces

GREEN = (90, 220, 90)  # BGR


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
        image = np.ascontiguousarray(faces.image(0)[:, :, ::-1])  # RGB to OpenCV's BGR
        found = predictor(image, [landmark_box(truth)])
        error = nme(found.landmarks, truth[None])[0]
        print(f"NME {100 * error:.2f} % of the distance between the outer eye corners")
    else:
        image = cv2.imread(str(args.picture))
        if image is None:
            raise SystemExit(f"{args.picture}: OpenCV cannot read this picture")
        found = predictor(image)
    print(f"{len(found.landmarks)} faces, {predictor.layout.points} landmarks each")

    for landmarks, box in zip(found.landmarks, found.boxes, strict=True):
        radius = max(1, round((box[3] - box[1]) / 100))
        for x, y in landmarks:
            cv2.circle(image, (round(float(x)), round(float(y))), radius, GREEN, -1, cv2.LINE_AA)
    if not cv2.imwrite(str(args.out), image):
        raise SystemExit(f"{args.out}: cannot be written")
    print(f"drawn into {args.out}")


if __name__ == "__main__":
    main()
