"""The constants of the landmarks' scores, computed on generated faces and generated scenes alone.

    python benchmarks/calibrate_scores.py [--weights FILE]

prints for each error of `ccdn.inference.scores`, the distance from the mirror image's landmarks
and the spread if the network has one, half and power of score = 1 / (1 + (error / half) ** power).
half: the fifth percentile of boxes without a face, so that 95 of 100 score less than 0.5. power:
99 of 100 faces score at least 0.9. With CCDN_SHARED=DIR it then counts the scores of training faces
in DIR/300w, which decide nothing.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from calibrate_detectors import CHECKED, SIDE
from detectors import photographs, scenes

from ccdn.checkpoint.bundled import DEFAULT_WEIGHTS
from ccdn.checkpoint.load import load_model
from ccdn.data import crop_image, generic_layout, landmark_box
from ccdn.data.boxes import overlap
from ccdn.data.images import cv2
from ccdn.inference.alignment import TILTED, rolled_matrix
from ccdn.inference.network import Curve, Seen
from ccdn.inference.reading import DOUBTFUL_TILTS
from ccdn.inference.scores import mirror_errors, spread_errors
from ccdn.inference.torch_network import look
from ccdn.synthetic_faces import SyntheticFaces

FACES, SEED, POSE = 300, 87, (45.0, 25.0, TILTED)  # faces as level as prediction makes them
GHOSTS, SCENES_SEED = 150, 88  # boxes in scenes without a face, and as many next to a face
SIDES = (0.2, 0.8)  # of those boxes, in sides of the picture
APART = 0.1  # the largest overlap of a box next to a face
HIGH = 0.9

View = tuple[np.ndarray, np.ndarray]  # a picture, uint8 RGB, and a box (4,)


def fit(faces: np.ndarray, ghosts: np.ndarray) -> Curve:
    """The curve of the errors of faces and of boxes without a face, (N,) and (M,).

    Raises ValueError if the 99th percentile of faces is not below the fifth of the others.
    """
    low, half = float(np.percentile(faces, 99)), float(np.percentile(ghosts, 5))
    if not low < half:
        raise ValueError(
            f"99 of 100 faces have errors up to {low:.4f}, expected less than {half:.4f}"
        )
    return Curve(half, math.log(1 / HIGH - 1) / math.log(low / half))


def random_box(rng: np.random.Generator) -> np.ndarray:
    """A square inside a picture of SIDE pixels, x0 y0 x1 y1."""
    side = rng.uniform(*SIDES) * SIDE
    corner = rng.uniform(0, SIDE - side, 2)
    return np.concatenate([corner, corner + side])


def ghosts(faces: SyntheticFaces) -> Iterator[View]:
    """Boxes without a face: in scenes, and next to faces."""
    rng = np.random.default_rng(SCENES_SEED)
    for image in scenes(GHOSTS, SCENES_SEED, SIDE):
        yield image, random_box(rng)
    for index in range(GHOSTS):
        wanted = landmark_box(faces.face(index).landmarks)
        box = random_box(rng)
        while overlap(box, wanted) > APART:
            box = random_box(rng)
        yield faces.image(index), box


Errors = Callable[[Iterator[View], tuple[float, ...]], dict[str, np.ndarray]]


def errors_with(weights: Path) -> Errors:
    """A function that takes boxes in pictures and rolls, and gives the errors (N,) of each kind:
    the least of the rolls'.
    """
    model, checkpoint = load_model(weights)
    model.eval()
    config = checkpoint.config
    size, flip = config.model.input_size, generic_layout(config.model.points).flip
    kinds: dict[str, Callable[[Seen], np.ndarray]] = {"mirror": mirror_errors}
    if config.model.spread:
        kinds["spread"] = spread_errors

    def errors(views: Iterator[View], rolls: tuple[float, ...]) -> dict[str, np.ndarray]:
        least: dict[str, list[float]] = {kind: [] for kind in kinds}
        for image, box in views:
            matrices = [rolled_matrix(box, config.data.margin, size, roll) for roll in rolls]
            crops = [crop_image(image, matrix, size).transpose(2, 0, 1) for matrix in matrices]
            seen = look(model, torch.from_numpy(np.stack(crops)), flip)
            for kind, error in kinds.items():
                least[kind].append(float(error(seen).min()))
        return {kind: np.array(values) for kind, values in least.items()}

    return errors


def training_faces(folder: Path) -> Iterator[View]:
    """Some training faces of 300W in the boxes of their landmarks."""
    for part in ("helen/trainset", "lfpw/trainset", "afw"):
        for image, (landmarks,) in photographs(folder / part, CHECKED):
            yield image, landmark_box(landmarks)


def main() -> None:
    """Print the constants for a network."""
    parser = argparse.ArgumentParser(description="Constants of the scores, on generated pictures.")
    parser.add_argument("--weights", type=Path, default=DEFAULT_WEIGHTS)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    errors = errors_with(parser.parse_args().weights)
    faces = SyntheticFaces(FACES, seed=SEED, size=SIDE, pose=POSE)
    boxes = ((faces.image(i), np.float64(faces.face(i).box)) for i in range(FACES))
    own = errors(boxes, (0.0,))
    # Prediction looks at what is doubtful in these rolls too, and takes the best.
    others = errors(ghosts(faces), (0.0, *DOUBTFUL_TILTS))
    shared = os.environ.get("CCDN_SHARED")
    real = errors(training_faces(Path(shared) / "300w"), (0.0,)) if shared else {}
    print(
        f"{faces.name}, {FACES} faces; {2 * GHOSTS} boxes without a face, scenes of seed"
        f" {SCENES_SEED}"
    )
    for kind, values in own.items():
        curve = fit(values, others[kind])
        print(
            f"{kind}: half {curve.half:.4f}, power {curve.power:.2f}; median of faces"
            f" {np.median(values):.4f}, 99 % {np.percentile(values, 99):.4f}; of the others, 5 %"
            f" {np.percentile(others[kind], 5):.4f}, median {np.median(others[kind]):.4f}"
        )
        if kind in real:
            scores = curve.scores(real[kind])
            print(
                f"  {len(scores)} training faces of 300W: {(scores >= 0.5).sum()} score at least"
                f" 0.5; median error {np.median(real[kind]):.4f}, median score"
                f" {np.median(scores):.2f}"
            )


if __name__ == "__main__":
    main()
