"""From boxes to faces: crops turned level, the network's landmarks, and how far to trust them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ccdn.data import Layout, crop_image
from ccdn.inference.alignment import TILTED, box_along, eye_roll, rolled_matrix, turned
from ccdn.inference.crops import Seen, crop_to_image, look
from ccdn.inference.results import Face
from ccdn.models import CCDN

DOUBTFUL, DOUBTFUL_TILTS = 0.5, (45.0, -45.0, 180.0)  # a score, and degrees
LEVELLED = 2  # a face is cropped again at most so often to be level
NOT_WORSE = 0.9  # a level crop is kept unless its score falls below this share of what it was
# The errors, `mirror_errors` and `spread_errors`, at which a score is one half, and how fast it
# falls there. `python benchmarks/calibrate_scores.py` computes them with the bundled weights on
# generated pictures: 95 of 100 boxes without a face score less than 0.5, 99 of 100 faces at least
# 0.9.
MIRROR_HALF, MIRROR_POWER = 0.0485, 4.22
SPREAD_HALF, SPREAD_POWER = 0.0436, 4.76


def mirror_errors(seen: Seen) -> np.ndarray:
    """Of each crop, (B,): the mean distance between the landmarks and those of its mirror image, in
    longer sides of the box around the landmarks. Raises ValueError if mirror images were not seen.
    """
    if seen.mirrored is None:
        raise ValueError("expected landmarks of mirrored crops, found none")
    apart = (seen.landmarks - seen.mirrored).double().norm(dim=2).mean(1)
    return np.asarray(apart.cpu().numpy() / _extents(seen))


def spread_errors(seen: Seen) -> np.ndarray:
    """Of each crop, (B,): the mean spread of its points, in longer sides of the box around the
    landmarks. Raises ValueError for a network without spread.
    """
    if seen.spread is None:
        raise ValueError("expected a network with spread, found one without")
    return np.asarray(seen.spread.double().mean(1).cpu().numpy() / _extents(seen))


def _extents(seen: Seen) -> np.ndarray:
    return np.ptp(seen.landmarks.double().cpu().numpy(), axis=1).max(1).clip(1e-6)


@dataclass(frozen=True, eq=False)
class Place:
    """Where a face is thought to be: in a picture, uint8 RGB, a box (4,), turned by a roll."""

    image: np.ndarray
    box: np.ndarray
    roll: float = 0.0
    score: float | None = None


@dataclass(frozen=True)
class Reader:
    """Reads the faces at places in pictures with a network.

    flip_test averages landmarks with those of the mirrored crop.
    """

    model: CCDN
    layout: Layout
    size: int
    margin: float
    device: torch.device
    batch_size: int
    flip_test: bool

    def read(self, places: Sequence[Place]) -> list[Face]:
        """A face for each place, in pixels of its picture.

        A detected face whose landmarks are doubtful is looked at tilted to both sides and upside
        down: detectors take many such faces for upright ones. A face that is tilted in its crop is
        cropped again, level.
        """
        faces = self._once(places)
        doubtful = [
            index
            for index, (place, face) in enumerate(zip(places, faces, strict=True))
            if place.score is not None and _score(face) < DOUBTFUL
        ]
        for tilt in DOUBTFUL_TILTS:
            rolls = {i: turned(places[i].roll + tilt) for i in doubtful}
            self._again(places, faces, rolls, {i: places[i].box for i in doubtful}, 1.0)
        for _ in range(LEVELLED if self.layout.pupil else 0):
            rolls = {i: eye_roll(face.landmarks, self.layout) for i, face in enumerate(faces)}
            tilted = {
                i: roll for i, roll in rolls.items() if abs(turned(roll - faces[i].roll)) > TILTED
            }
            boxes = {i: box_along(faces[i].landmarks, roll) for i, roll in tilted.items()}
            # An untrained network may put all landmarks on one point or line, which has no box.
            boxes = {i: box for i, box in boxes.items() if (box[:2] < box[2:]).all()}
            self._again(places, faces, {i: tilted[i] for i in boxes}, boxes, NOT_WORSE)
        return faces

    def _again(
        self,
        places: Sequence[Place],
        faces: list[Face],
        rolls: dict[int, float],
        boxes: dict[int, np.ndarray],
        least: float,
    ) -> None:
        """Crop some faces again, in these boxes and turned by these rolls, and keep those whose
        score is at least this share of what it was.
        """
        crops = [replace(places[i], roll=roll, box=boxes[i]) for i, roll in rolls.items()]
        for i, face in zip(rolls, self._once(crops), strict=True):
            if _score(face) >= least * _score(faces[i]):
                faces[i] = replace(face, box=np.asarray(places[i].box, np.float64))

    def _once(self, places: Sequence[Place]) -> list[Face]:
        faces: list[Face] = []
        for start in range(0, len(places), self.batch_size):
            faces += self._batch(places[start : start + self.batch_size])
        return faces

    def _batch(self, places: Sequence[Place]) -> list[Face]:
        matrices = [rolled_matrix(p.box, self.margin, self.size, p.roll) for p in places]
        crops = np.stack(
            [
                crop_image(place.image, matrix, self.size).transpose(2, 0, 1)
                for place, matrix in zip(places, matrices, strict=True)
            ]
        )
        mirror = self.flip_test or not self.model.config.spread
        seen = look(
            self.model,
            torch.from_numpy(crops).to(self.device),
            self.layout.flip if mirror else None,
        )
        landmarks = seen.landmarks.double().cpu().numpy()
        scores: list[float | None] = [None] * len(places)
        spreads = None if seen.spread is None else seen.spread.double().cpu().numpy()
        if spreads is not None:
            scores = _scores(spread_errors(seen), SPREAD_HALF, SPREAD_POWER)
        elif seen.mirrored is not None:
            scores = _scores(mirror_errors(seen), MIRROR_HALF, MIRROR_POWER)
        if self.flip_test and seen.mirrored is not None:
            landmarks = ((seen.landmarks + seen.mirrored) / 2).cpu().numpy()
        faces = []
        for i, (place, matrix) in enumerate(zip(places, matrices, strict=True)):
            pixels = float(np.hypot(*matrix[:, 0]))  # of the crop in one of the picture
            faces.append(
                Face(
                    crop_to_image(landmarks[i], matrix, self.size).astype(np.float32),
                    np.asarray(place.box, np.float64),
                    self.layout,
                    place.score,
                    scores[i],
                    None if spreads is None else (spreads[i] * self.size / pixels).astype("f4"),
                    place.roll,
                )
            )
        return faces


def _score(face: Face) -> float:
    return 1.0 if face.landmark_score is None else face.landmark_score


def _scores(errors: np.ndarray, half: float, power: float) -> list[float | None]:
    return [float(value) for value in 1 / (1 + (errors / half) ** power)]
