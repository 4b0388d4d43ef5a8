"""From boxes to faces: crops turned level, the network's landmarks, and how far to trust them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ccdn.data import Layout, crop_image
from ccdn.data.sampling import numpy_samples
from ccdn.inference.alignment import (
    TILTED,
    box_along,
    crop_to_image,
    eye_roll,
    rolled_matrix,
    turned,
)
from ccdn.inference.network import Network
from ccdn.inference.results import Face
from ccdn.inference.scores import mirror_errors, spread_errors

DOUBTFUL, DOUBTFUL_TILTS = 0.95, (45.0, -45.0, 180.0)  # a score, and degrees
LEVELLED = 2  # a face is cropped again at most so often to be level
NOT_WORSE = 0.9  # a level crop is kept unless its score falls below this share of what it was


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

    network: Network
    layout: Layout
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
            if place.score is not None and face.trust < DOUBTFUL
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
            if face.trust >= least * faces[i].trust:
                faces[i] = replace(face, box=np.asarray(places[i].box, np.float64))

    def _once(self, places: Sequence[Place]) -> list[Face]:
        faces: list[Face] = []
        for start in range(0, len(places), self.batch_size):
            faces += self._batch(places[start : start + self.batch_size])
        return faces

    def _batch(self, places: Sequence[Place]) -> list[Face]:
        traits = self.network.traits
        size = traits.size
        matrices = [rolled_matrix(p.box, traits.margin, size, p.roll) for p in places]
        crops = np.stack(
            [
                crop_image(place.image, matrix, size, sampler=numpy_samples).transpose(2, 0, 1)
                for place, matrix in zip(places, matrices, strict=True)
            ]
        )
        mirror = self.flip_test or not traits.spread
        seen = self.network.see(crops, self.layout.flip if mirror else None)
        landmarks, spreads = seen.landmarks, seen.spread
        scores: list[float | None] = [None] * len(places)
        if spreads is not None:
            scores = traits.curve.scores(spread_errors(seen)).tolist()
        elif seen.mirrored is not None:
            scores = traits.curve.scores(mirror_errors(seen)).tolist()
        if self.flip_test and seen.mirrored is not None:
            landmarks = (landmarks + seen.mirrored) / 2
        faces = []
        for i, (place, matrix) in enumerate(zip(places, matrices, strict=True)):
            pixels = float(np.hypot(*matrix[:, 0]))  # of the crop in one of the picture
            faces.append(
                Face(
                    crop_to_image(landmarks[i], matrix, size).astype(np.float32),
                    np.asarray(place.box, np.float64),
                    self.layout,
                    place.score,
                    scores[i],
                    None if spreads is None else (spreads[i] * (size / pixels)).astype("f4"),
                    place.roll,
                )
            )
        return faces
