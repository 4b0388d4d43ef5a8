"""Faces of a film or a camera: each keeps its id, is followed from frame to frame, and is smoothed.

The detector searches every n-th frame, and each frame while a face is missing. In between, the crop
of a face follows its own smoothed landmarks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from ccdn.data import Layout, landmark_box
from ccdn.data.boxes import overlap
from ccdn.data.detection import Detections
from ccdn.inference.alignment import box_along
from ccdn.inference.pictures import as_rgb
from ccdn.inference.results import Face, Faces
from ccdn.inference.smoothing import FaceSmoother

DETECT_EVERY = 10  # frames
REMEMBERED = 1.0  # seconds for which a face that is not found keeps its id
FRAME_RATE = 25.0  # of frames without times
# How alike a face and a detection are, from 0 to 1: the mean of the overlap of their boxes and of
# the share of the landmarks inside the detector's box.
ALIKE = 0.3
APART = 0.4  # a lower overlap of the boxes: the face is looked at again where the detector has it
SAME = 0.25  # mean distance of the landmarks of two faces, in sides of their boxes: one face twice
JUMP = 2.0  # a face does not grow or shrink by more from one frame to the next
REACH = 1.0  # a lost face may be found so many of its sides from where it was expected


class TimeError(ValueError):
    """The time of a frame is not later than that of the last one, or no number."""


@dataclass
class Track:
    """One face over time. seen: seconds of the frame in which it was last found."""

    id: int
    face: Face
    smoother: FaceSmoother
    seen: float
    roll: float  # of the first frame

    def crop(self) -> tuple[np.ndarray, float]:
        """The box (4,) and the roll by which the next frame is cropped."""
        roll = self.roll + self.smoother.angle
        return box_along(self.smoother.landmarks, roll), roll

    def take(self, face: Face, time: float) -> None:
        """Use what was found in the frame at this time."""
        self.smoother(face.landmarks, time - self.seen)
        self.face, self.seen = face, time

    def restart(self, face: Face, time: float) -> None:
        """Continue elsewhere, without smoothing what lies between."""
        self.face, self.seen = face, time
        self.smoother, self.roll = FaceSmoother(face.landmarks), face.roll

    def reported(self, smooth: bool) -> Face:
        """The face as callers get it."""
        points = self.smoother.landmarks if smooth else self.face.landmarks
        return replace(
            self.face,
            landmarks=np.asarray(points, np.float32),
            box=landmark_box(points),
            id=self.id,
        )


class FaceReader(Protocol):
    """What a tracker needs of a `ccdn.Predictor`, which has methods that make trackers."""

    layout: Layout
    min_score: float

    def detections(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """What the detector finds in pictures, uint8 RGB."""

    def landmarks(
        self, images: Sequence[np.ndarray], boxes: Sequence[Detections | Sequence[np.ndarray]]
    ) -> list[Faces]:
        """The faces in boxes of several pictures."""


class Tracker:
    """Follows the faces of a film or a camera: `faces = tracker(frame, time)` for each frame.

    predictor: finds and reads the faces. detect_every: the detector searches one of so many frames;
    also each frame while a face is missing, for at most REMEMBERED seconds. smooth: whether
    landmarks are smoothed. A face that is missing for longer gets a new id when it is found again.
    A tracker belongs to one film and one thread; a predictor may have several trackers.

    Raises ValueError for fewer than one frame.
    """

    def __init__(
        self, predictor: FaceReader, detect_every: int = DETECT_EVERY, smooth: bool = True
    ) -> None:
        if detect_every < 1:
            raise ValueError(f"detect_every: expected at least 1, found {detect_every}")
        self.predictor, self.detect_every, self.smooth = predictor, detect_every, smooth
        self.tracks: list[Track] = []
        self.count = 0  # ids that were given
        self._frames = 0
        self._time = -np.inf

    def __call__(self, image: Any, time: float | None = None, *, color: str = "rgb") -> Faces:
        """The faces of the next frame, in the order of their ids.

        image, color: as `Predictor` takes one picture. time: seconds since any moment, later than
        the last frame's; None: 25 frames a second. Raises TimeError for any other time.
        """
        picture = as_rgb(image, color)
        if time is None:
            time = self._time + 1 / FRAME_RATE if self._frames else 0.0
        if not self._time < time < np.inf:
            raise TimeError(f"time of a frame: expected more than {self._time:g}, found {time:g}")
        self._follow(picture, time)
        missing = any(track.seen < time for track in self.tracks)
        if missing or self._frames % self.detect_every == 0:
            self._detect(picture, time)
        self._time = time
        self._frames += 1
        self.tracks = [track for track in self.tracks if time - track.seen < REMEMBERED]
        seen = sorted((t for t in self.tracks if t.seen == time), key=lambda track: track.id)
        return Faces([track.reported(self.smooth) for track in seen], self.predictor.layout)

    def _follow(self, image: np.ndarray, time: float) -> None:
        """Read the faces of the last frame where they should be now."""
        known = [(track, *track.crop()) for track in self.tracks if track.seen == self._time]
        known = [entry for entry in known if (entry[1][:2] < entry[1][2:]).all()]
        boxes = np.reshape([box for _, box, _ in known], (-1, 4))
        rolls = np.array([roll for _, _, roll in known])
        given = Detections(boxes, np.full(len(boxes), np.nan), None, rolls)
        faces = self.predictor.landmarks([image], [given])[0]
        moved = []
        for (track, _, _), face in zip(known, faces, strict=True):
            face = replace(face, detection_score=track.face.detection_score)
            if self._follows(track, face, image):
                moved.append((_distance(track.smoother.landmarks, face.landmarks), track, face))
        # Of two that have become one face, that which moved less is the face.
        kept: list[np.ndarray] = []
        for _, track, face in sorted(moved, key=lambda entry: entry[0]):
            if not any(_distance(other, face.landmarks) < SAME for other in kept):
                kept.append(face.landmarks)
                track.take(face, time)

    def _follows(self, track: Track, face: Face, image: np.ndarray) -> bool:
        """Whether a face may be that of a track, one frame later."""
        if face.trust < self.predictor.min_score:
            return False
        growth = _side(face.landmarks) / _side(track.smoother.landmarks)
        return _inside(face, image) and 1 / JUMP < growth < JUMP

    def _detect(self, image: np.ndarray, time: float) -> None:
        """Search the frame: confirm the faces that are followed, and find others."""
        found = self.predictor.detections([image])[0]
        seen = [track for track in self.tracks if track.seen == time]
        alike = np.array([[_alike(t, box) for box in found.boxes] for t in seen])
        pairs = _assign(1 - alike.reshape(len(seen), len(found)), 1 - ALIKE)
        claimed: dict[int, Track] = {}  # by the detection, those that are looked at again there
        for i, j in pairs:
            box = landmark_box(seen[i].smoother.landmarks)
            if overlap(box, found.boxes[j]) < APART:
                claimed[j] = seen[i]
            else:
                score = float(found.scores[j])
                seen[i].face = replace(seen[i].face, detection_score=score)
        matched = {j for _, j in pairs}
        looked = [j for j in range(len(found)) if j not in matched or j in claimed]
        faces = self.predictor.landmarks([image], [found.some(looked)])[0]
        new: list[Face] = []
        for j, face in zip(looked, faces, strict=True):
            if face.score < self.predictor.min_score or not _inside(face, image):
                continue
            if (track := claimed.get(j)) is not None and face.trust >= track.face.trust:
                track.restart(face, time)
            elif track is None:
                new.append(face)
        self._add(new, time)

    def _add(self, faces: list[Face], time: float) -> None:
        """Faces that are new: each is a lost one that is found again, or gets a new id."""
        here = [track.face.landmarks for track in self.tracks if track.seen == time]
        faces = [
            face
            for face in faces
            if not any(_distance(other, face.landmarks) < SAME for other in here)
        ]
        lost = [track for track in self.tracks if track.seen < time]
        costs = np.array([[_apart(track, face, time) for face in faces] for track in lost])
        again = {j: lost[i] for i, j in _assign(costs.reshape(len(lost), len(faces)), REACH)}
        for j, face in enumerate(faces):
            if j in again:
                again[j].restart(face, time)
            else:
                smoother = FaceSmoother(face.landmarks)
                self.tracks.append(Track(self.count, face, smoother, time, face.roll))
                self.count += 1


def _inside(face: Face, image: np.ndarray) -> bool:
    """Whether the middle of a face is in the picture."""
    middle = face.landmarks.mean(axis=0)
    return bool((middle >= 0).all() and (middle < image.shape[1::-1]).all())


def _side(landmarks: np.ndarray) -> float:
    return max(float(np.ptp(landmarks, axis=0).max()), 1e-6)


def _distance(first: np.ndarray, second: np.ndarray) -> float:
    """The mean distance of two faces' landmarks (L, 2), in sides of the smaller one's box."""
    apart = np.linalg.norm(np.asarray(first, np.float64) - second, axis=1).mean()
    return float(apart) / min(_side(first), _side(second))


def _alike(track: Track, box: np.ndarray) -> float:
    points = track.smoother.landmarks
    inside = ((points >= box[:2]) & (points <= box[2:])).all(axis=1).mean()
    return (overlap(landmark_box(points), box) + float(inside)) / 2


def _apart(track: Track, face: Face, time: float) -> float:
    """How far a face is from where a lost one may be, in sides of its box, and how unlike it is in
    size.

    It may have stayed, or moved on as it moved when it was lost.
    """
    smoother = track.smoother
    last = smoother.landmarks.mean(axis=0)
    middle = face.landmarks.mean(axis=0)
    onward = last + smoother.velocity * (time - track.seen)
    size = _side(smoother.landmarks)
    far = min(float(np.linalg.norm(middle - place)) for place in (last, onward)) / size
    growth = abs(float(np.log(_side(face.landmarks) / size)))
    return far + growth


def _assign(costs: np.ndarray, most: float) -> Sequence[tuple[int, int]]:
    """The pairs (row, column) with the least sum of costs, of those that cost at most `most`."""
    if not costs.size:
        return []
    from scipy.optimize import linear_sum_assignment

    possible = np.where(costs <= most, costs, 1e6)
    rows, columns = linear_sum_assignment(possible)
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if costs[i, j] <= most]
