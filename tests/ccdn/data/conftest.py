"""Tiny pictures and annotations that the tests make."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ccdn.data import Face, Skipped, write_pts
from ccdn.data.images import cv2

W300_PARTS = (
    "afw",
    "helen/trainset",
    "lfpw/trainset",
    "helen/testset",
    "lfpw/testset",
    "ibug",
)


class MemoryFaces:
    """Faces and images held in memory."""

    def __init__(self, faces: list[Face], images: list[np.ndarray]) -> None:
        self.name = "made"
        self.points = len(faces[0].landmarks)
        self.skipped = Skipped()
        self.faces, self.images = faces, images
        self.reads = 0

    def __len__(self) -> int:
        return len(self.faces)

    def face(self, index: int) -> Face:
        return self.faces[index]

    def image(self, index: int) -> np.ndarray:
        self.reads += 1
        return self.images[index]


def make_landmarks(seed: int, points: int = 68, low: float = 8.0, high: float = 40.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.uniform(low, high, (points, 2)).astype(np.float32)


def make_image(seed: int, height: int = 48, width: int = 56) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def landmarks() -> Callable[..., np.ndarray]:
    return make_landmarks


@pytest.fixture
def picture() -> Callable[..., np.ndarray]:
    return make_image


@pytest.fixture
def write_face() -> Callable[..., np.ndarray]:
    """write_face(image path, seed, points) writes an image and its .pts and gives the landmarks."""

    def write(path: Path, seed: int = 0, points: int = 68) -> np.ndarray:
        path.parent.mkdir(parents=True, exist_ok=True)
        made = make_landmarks(seed, points)
        assert cv2.imwrite(str(path), cv2.cvtColor(make_image(seed), cv2.COLOR_RGB2BGR))
        write_pts(path.with_suffix(".pts"), made)
        return made

    return write


@pytest.fixture
def w300(tmp_path: Path, write_face: Callable[..., np.ndarray]) -> Path:
    """A folder in the official layout of 300W: 2 faces in each part."""
    for number, part in enumerate(W300_PARTS):
        write_face(tmp_path / part / "image_1.png", 2 * number)
        write_face(tmp_path / part / "image 2.JPG", 2 * number + 1)
    return tmp_path


@pytest.fixture
def memory_faces() -> Callable[..., MemoryFaces]:
    """memory_faces(count, points, side) makes faces of random pixels with boxes."""

    def make(count: int = 6, points: int = 68, side: int = 64) -> MemoryFaces:
        faces = []
        for i in range(count):
            spots = make_landmarks(i, points, 0.25 * side, 0.75 * side)
            box = np.concatenate([spots.min(0) - 2, spots.max(0) + 1])
            faces.append(Face(f"face {i}", spots, box))
        return MemoryFaces(faces, [make_image(i, side, side) for i in range(count)])

    return make
