"""Generated films of faces whose landmarks are known exactly in every frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ccdn.data import crop_image, transform_points
from ccdn.data.images import cv2
from ccdn.synthetic_faces import SyntheticFaces
from ccdn.synthetic_faces.anatomy import Anatomy
from ccdn.synthetic_faces.camera import View, look_at
from ccdn.synthetic_faces.head import Head
from ccdn.synthetic_faces.parameters import (
    sample_expression,
    sample_identity,
    sample_pose,
    shape_stream,
)

RATE, WIDTH, HEIGHT = 30.0, 640, 480
NOISE = 4.0  # standard deviation of each frame's own noise, of 255 levels
SIDE = 640  # of a face's picture, in pixels
POSE = (30.0, 15.0, 10.0)  # largest yaw, pitch and roll of the faces
PERIOD = 4.0  # seconds of a movement to and fro


class FilmFrame(NamedTuple):
    """A frame, uint8 RGB, its time in seconds, and the landmarks (L, 2) of its faces."""

    image: np.ndarray
    time: float
    faces: list[np.ndarray]


Motion = Callable[[float], tuple[float, float, float, float]]  # right, down, scale, degrees


def swing(time: float) -> float:
    """From -1 to 1 and back, starting at 0."""
    return float(np.sin(2 * np.pi * time / PERIOD))


MOTIONS: dict[str, Motion] = {
    "still": lambda time: (0.0, 0.0, 0.5, 0.0),
    "pan": lambda time: (110 * swing(time), 25 * swing(2 * time), 0.5, 0.0),
    "zoom": lambda time: (0.0, 0.0, 0.5 * 1.6 ** swing(time), 0.0),
    "roll": lambda time: (0.0, 0.0, 0.5, 30 * swing(time)),
}
CASES = (*MOTIONS, "turn", "crossing")


def film(case: str, seed: int, frames: int = 240) -> Iterator[FilmFrame]:
    """The frames of a film: the camera is still, or pans, zooms or rolls; a head turns and speaks;
    or two faces, one of which grows while the other shrinks.
    """
    rng = np.random.default_rng([seed, CASES.index(case)])
    make = {"turn": _turning, "crossing": _crossing}.get(case)
    source = _moving(MOTIONS[case], seed) if make is None else make(seed)
    for index in range(frames):
        time = index / RATE
        image, faces = source(time)
        grain = rng.normal(0.0, NOISE, image.shape)
        yield FilmFrame(np.clip(image + grain, 0, 255).round().astype(np.uint8), time, faces)


Source = Callable[[float], tuple[np.ndarray, list[np.ndarray]]]


def _moving(motion: Motion, seed: int) -> Source:
    """A photograph of a face before which the camera moves."""
    photograph = SyntheticFaces(1, seed, size=SIDE, pose=POSE, occlusion=0.0)
    picture, landmarks = photograph.image(0), photograph.face(0).landmarks.astype(np.float64)
    picture, landmarks = _framed(picture, landmarks)

    def at(time: float) -> tuple[np.ndarray, list[np.ndarray]]:
        matrix = _matrix(picture, motion(time), (WIDTH / 2, HEIGHT / 2))
        image = crop_image(picture, matrix, (WIDTH, HEIGHT))
        return image, [transform_points(matrix, landmarks)]

    return at


def _crossing(seed: int) -> Source:
    """Two photographs side by side: one face grows from 0.6 to 1.6 times the other's size."""
    photographs = SyntheticFaces(2, seed, size=SIDE, pose=POSE, occlusion=0.0)
    both = [
        _framed(photographs.image(i), photographs.face(i).landmarks.astype(np.float64))
        for i in (0, 1)
    ]

    def at(time: float) -> tuple[np.ndarray, list[np.ndarray]]:
        halves, faces = [], []
        for place, (picture, landmarks) in enumerate(both):
            sign = 1 if place else -1
            scale = 0.32 * 1.27 ** (sign * np.cos(2 * np.pi * time / (2 * PERIOD)))
            matrix = _matrix(picture, (0.0, 0.0, scale, 0.0), (WIDTH / 4, HEIGHT / 2))
            halves.append(crop_image(picture, matrix, (WIDTH // 2, HEIGHT)))
            shift = np.array([place * WIDTH // 2, 0])
            faces.append(transform_points(matrix, landmarks) + shift)
        return np.hstack(halves), faces

    return at


def _turning(seed: int) -> Source:
    """A head that turns to both sides, opens its mouth and blinks, rendered for each frame."""
    faces = _TurningHead(seed)

    def at(time: float) -> tuple[np.ndarray, list[np.ndarray]]:
        faces.turn(time)
        picture, landmarks = _framed(faces.image(0), faces.face(0).landmarks.astype(np.float64))
        matrix = _matrix(picture, (0.0, 0.0, 1.0, 0.0), (WIDTH / 2, HEIGHT / 2))
        return crop_image(picture, matrix, (WIDTH, HEIGHT)), [transform_points(matrix, landmarks)]

    return at


class _TurningHead(SyntheticFaces):
    """One face whose pose and expression depend on the time."""

    def __init__(self, seed: int) -> None:
        super().__init__(1, seed, size=420, pose=POSE, occlusion=0.0)
        draw = shape_stream(seed, 0)
        self._identity, self._rest = sample_identity(draw), sample_expression(draw)
        self._start = sample_pose(draw, self.pose)
        self.turn(0.0)

    def turn(self, time: float) -> None:
        """Go to a moment of the film."""
        blink = max(0.0, 1.0 - abs(time % 2.0 - 1.0) / 0.15)  # of 0.3 s, every two seconds
        expression = replace(
            self._rest,
            # Between two of the generator's steps, so that all frames are painted alike.
            open=0.2 - 0.15 * np.cos(2 * np.pi * time / 1.5),
            part=0.0,
            smile=max(self._rest.smile, 0.0),
            close_left=blink,
            close_right=blink,
        )
        pose = replace(self._start, yaw=30 * swing(time), pitch=8 * swing(1.7 * time), extent=0.5)
        view = look_at(Head(Anatomy(self._identity, expression)), pose, self.size)
        self._views, self._last = {0: view}, None

    def _view(self, index: int) -> View:
        return self._views[index]


def _framed(picture: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The picture with its borders continued."""
    border = picture.shape[0]
    return cv2.copyMakeBorder(picture, *[border] * 4, cv2.BORDER_REPLICATE), landmarks + border


def _matrix(
    picture: np.ndarray, motion: tuple[float, float, float, float], middle: tuple[float, float]
) -> np.ndarray:
    """From the picture, whose middle comes to `middle`, moved, scaled and turned clockwise."""
    right, down, scale, degrees = motion
    angle = np.radians(degrees)
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = (np.array(picture.shape[1::-1]) - 1) / 2
    return np.column_stack([linear, np.array(middle) - 0.5 + (right, down) - linear @ centre])
