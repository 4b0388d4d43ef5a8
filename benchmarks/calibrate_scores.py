"""The constants of the scores, computed on generated faces and generated scenes alone.

    python benchmarks/calibrate_scores.py [--weights FILE]

finds faces and reads them as `ccdn.Predictor` does, and prints for each error of
`ccdn.inference.scores`, the spread if the network has one and the distance from the mirror image's
landmarks, half and power of landmark_score = 1 / (1 + (error / half) ** power), and DETECTION, by
which a lower score of the detector lowers the odds. Together they are the logistic regression that
tells faces from what else the detector finds, both kinds counting alike. The faces are of two sets,
an easy one and a hard one with wide poses and more in front of the faces. DETECTION comes from the
first error; for the second it is given.

With CCDN_SHARED=DIR it then counts the scores of training faces in DIR/300w, which decide nothing.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from calibrate_detectors import CHECKED, SIDE
from detectors import ENOUGH, photographs, scenes
from scipy.optimize import minimize

from ccdn.checkpoint.bundled import DEFAULT_WEIGHTS
from ccdn.data import landmark_box
from ccdn.data.boxes import overlap
from ccdn.data.detection import Detections
from ccdn.data.images import cv2
from ccdn.inference.network import Curve, Network, Seen
from ccdn.inference.predictor import Predictor
from ccdn.inference.scores import MIRROR, combined
from ccdn.inference.torch_network import TorchNetwork
from ccdn.synthetic_faces import SyntheticFaces

EASY = SyntheticFaces(300, seed=87, size=SIDE, pose=(45.0, 25.0, 12.0))
HARD = SyntheticFaces(150, seed=187, size=SIDE, pose=(75.0, 40.0, 40.0), occlusion=0.5)
SCENES, SCENES_SEEDS = 600, (88, 300, 301)  # without a face, of each seed
BOXES = 300  # anywhere in such scenes
SIDES = (0.2, 0.8)  # of those boxes, in sides of the picture
RIDGE = 1e-4  # of the two slopes' squares, in standard deviations: keeps them finite

Picture = tuple[np.ndarray, np.ndarray | None]  # uint8 RGB, and the landmarks of its face if any


class WithoutSpread:
    """A network as it would be if it had not learned its spread."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.device = network.device
        self.traits = replace(network.traits, spread=False, curve=MIRROR)

    def see(self, crops: np.ndarray, flip: Sequence[int] | None = None) -> Seen:
        """What the network sees, without the spread."""
        return self._network.see(crops, flip)._replace(spread=None)


def predictors(weights: Path) -> dict[str, Predictor]:
    """By each error that a network shows, a predictor whose scores come from it."""
    network = TorchNetwork.load(weights)
    kinds = {"mirror": WithoutSpread(network)}
    if network.traits.spread:
        kinds = {"spread": network, **kinds}
    return {kind: Predictor(one, device="cpu", min_score=0) for kind, one in kinds.items()}


def found(chosen: dict[str, Predictor], pictures: Iterable[Picture]) -> dict[str, np.ndarray]:
    """The detector's score and the error (N, 2) of what is found, for each kind of error: the face
    of each picture, or everything in one without a face.
    """
    rows: dict[str, list[tuple[float, float]]] = {kind: [] for kind in chosen}
    (first, *_) = chosen.values()
    for image, landmarks in pictures:
        (boxes,) = first.detections([image])
        if landmarks is not None:
            shares = [overlap(box, landmark_box(landmarks)) for box in boxes.boxes]
            best = int(np.argmax(shares)) if shares and max(shares) >= ENOUGH else None
            boxes = boxes.some([] if best is None else [best])
        for kind, predictor in chosen.items():
            rows[kind] += read(predictor, image, boxes)
    return {kind: np.reshape(values, (-1, 2)) for kind, values in rows.items()}


def read(predictor: Predictor, image: np.ndarray, boxes: Detections) -> list[tuple[float, float]]:
    """The detector's scores, and the errors that gave the landmarks' scores."""
    curve = predictor.network.traits.curve
    return [
        (face.detection_score, curve.half * (1 / face.landmark_score - 1) ** (1 / curve.power))
        for face in predictor.landmarks([image], [boxes])[0]
    ]


def fit(
    faces: np.ndarray, others: np.ndarray, detection: float | None = None
) -> tuple[Curve, float]:
    """The curve and DETECTION, unless that is given, from the detector's scores and the errors of
    faces (N, 2) and of others (M, 2).
    """
    rows = np.concatenate([faces, others])
    sign = np.repeat([1.0, -1.0], [len(faces), len(others)])
    weight = np.repeat([1 / len(faces), 1 / len(others)], [len(faces), len(others)])
    errors, lacking = np.log(rows[:, 1]), 1 - rows[:, 0]
    middle, width, unit = errors.mean(), errors.std(), lacking.std()

    def loss(free: np.ndarray) -> float:
        dropping = free[2] / unit if detection is None else detection
        odds = free[0] - free[1] * (errors - middle) / width - dropping * lacking
        return float(weight @ np.logaddexp(0, -sign * odds) + RIDGE * free[1:] @ free[1:])

    start, slope, *drop = minimize(loss, np.zeros(3 if detection is None else 2)).x.tolist()
    half = float(np.exp(middle + start * width / slope))
    return Curve(half, slope / width), drop[0] / unit if detection is None else detection


def generated(faces: SyntheticFaces) -> Iterator[Picture]:
    """The faces as pictures with landmarks."""
    return ((faces.image(i), faces.face(i).landmarks) for i in range(len(faces)))


def random_boxes() -> Iterator[tuple[np.ndarray, Detections]]:
    """Squares anywhere in scenes without a face."""
    rng = np.random.default_rng(SCENES_SEEDS[0])
    for image in scenes(BOXES, SCENES_SEEDS[0], SIDE):
        side = rng.uniform(*SIDES) * SIDE
        corner = rng.uniform(0, SIDE - side, 2)
        yield image, Detections(np.array([[*corner, *(corner + side)]]), np.ones(1))


def training_faces(folder: Path) -> Iterator[Picture]:
    """Some training faces of 300W."""
    for part in ("helen/trainset", "lfpw/trainset"):
        for image, (landmarks,) in photographs(folder / part, CHECKED):
            yield image, landmarks


def main() -> None:
    """Print the constants for a network."""
    parser = argparse.ArgumentParser(description="Constants of the scores, on generated pictures.")
    parser.add_argument("--weights", type=Path, default=DEFAULT_WEIGHTS)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    chosen = predictors(parser.parse_args().weights)
    easy, hard = found(chosen, generated(EASY)), found(chosen, generated(HARD))
    empty = (image for seed in SCENES_SEEDS for image in scenes(SCENES, seed, SIDE))
    others = found(chosen, ((image, None) for image in empty))
    anywhere = {
        kind: np.array([pair for view in random_boxes() for pair in read(predictor, *view)])
        for kind, predictor in chosen.items()
    }
    shared = os.environ.get("CCDN_SHARED")
    real = found(chosen, training_faces(Path(shared) / "300w")) if shared else {}
    (kind, *_) = chosen
    print(
        f"{EASY.name} and {HARD.name}: {len(easy[kind])} and {len(hard[kind])} of {len(EASY)} and"
        f" {len(HARD)} faces are found, and {len(others[kind])} other things in {SCENES} scenes"
        f" each of the seeds {SCENES_SEEDS}"
    )
    detection = None
    for kind in chosen:
        curve, detection = fit(np.concatenate([easy[kind], hard[kind]]), others[kind], detection)
        print(f"{kind}: half {curve.half:.4f}, power {curve.power:.2f}, DETECTION {detection:.2f}")
        sets = {"easy": easy, "hard": hard, "others": others, "anywhere": anywhere, "300W": real}
        for name, values in sets.items():
            if kind not in values:
                continue
            scores, errors = values[kind].T
            final = combined(scores, curve.scores(errors), detection)
            print(
                f"  {name:8}  {len(final):4}, {(final >= 0.5).sum():4} score at least 0.5; errors"
                f" 1, 50, 99 %: {np.percentile(errors, (1, 50, 99)).round(4).tolist()}; scores of"
                f" the detector: {np.percentile(scores, (1, 50, 99)).round(2).tolist()}"
            )


if __name__ == "__main__":
    main()
