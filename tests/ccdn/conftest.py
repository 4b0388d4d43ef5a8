"""A folder of invented faces and a configuration so small that a step takes milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from ccdn.checkpoint.state import Checkpoint
from ccdn.checkpoint.torch_file import save_checkpoint
from ccdn.config import load_config
from ccdn.data import Face, Skipped, write_pts
from ccdn.models import build_model
from ccdn.plan.faces import open_training_faces

FACES = 20
SMALL = [
    "model.input_size=32",
    "model.stem_stride=1",
    "model.stem_channels=4",
    "model.depth=1",
    "model.channels=8",
    "model.stage_channels=[8,8]",
    "model.excitations=2",
    # The paper's, whose bias alone is the answer of a network that ignores its input.
    "model.head=fused",
    "train.batch_size=4",
    "train.epochs=3",
    "train.threads=1",
    "train.log_steps=2",
    "data.box=gt",
]


def made_up_face(index: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture, uint8 (96, 96, 3), and its 68 landmarks: a round head, turned a little."""
    random = np.random.default_rng(index)
    angle = np.linspace(np.pi, 0, 17)
    jaw = np.stack([np.cos(angle), np.sin(angle)], 1) * [1.0, 1.2]

    def arc(x: float, y: float, rx: float, ry: float, count: int, start: float) -> np.ndarray:
        turns = start + np.linspace(0, 2 * np.pi, count, endpoint=False)
        return np.stack([x + rx * np.cos(turns), y + ry * np.sin(turns)], 1)

    brows = [
        np.stack([np.linspace(a, b, 5), np.full(5, -0.35)], 1)
        for a, b in ((-0.7, -0.2), (0.2, 0.7))
    ]
    nose = [np.stack([np.zeros(4), np.linspace(0, 0.4, 4)], 1)]
    nose += [np.stack([np.linspace(-0.2, 0.2, 5), np.full(5, 0.5)], 1)]
    eyes = [arc(x, 0, 0.2, 0.1, 6, np.pi) for x in (-0.45, 0.45)]
    mouth = [arc(0, 0.85, 0.4, 0.15, 12, np.pi), arc(0, 0.85, 0.3, 0.06, 8, np.pi)]
    face = np.concatenate([jaw, *brows, *nose, *eyes, *mouth])
    turn = random.normal(0, 0.2)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    landmarks = face @ rotation.T * random.uniform(22, 30) + random.uniform(40, 54, 2)
    image = random.integers(40, 90, (96, 96, 3)).astype(np.uint8)
    fixed = np.round(landmarks * 16).astype(np.int32)
    cv2.fillPoly(image, [cv2.convexHull(fixed[:27])], (220, 180, 150), cv2.LINE_AA, 4)
    for first, last in ((36, 42), (42, 48), (48, 60)):
        cv2.fillPoly(image, [fixed[first:last]], (60, 30, 30), cv2.LINE_AA, 4)
    return image, landmarks.astype(np.float32)


@pytest.fixture(scope="session")
def face_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made-up faces, FACES of them, as pictures with .pts files."""
    folder = tmp_path_factory.mktemp("faces")
    for index in range(FACES):
        image, landmarks = made_up_face(index)
        cv2.imwrite(str(folder / f"face{index:02}.png"), image[:, :, ::-1])
        write_pts(folder / f"face{index:02}.pts", landmarks)
    return folder


@pytest.fixture(scope="session")
def small() -> list[str]:
    """Overrides that make any configuration small."""
    return list(SMALL)


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """A run sets torch's number of threads for its process; put it back."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def mean_shape_weights(face_folder: Path, small: list[str], tmp_path: Path) -> Path:
    """A checkpoint of a model that answers the mean shape."""
    config = load_config("tiny", [*small, f"data.root={face_folder}", "data.kind=folder"])
    faces = open_training_faces(config)
    model = build_model(config.model)
    model.head.weight.data.zero_()
    model.set_mean_shape(faces.mean_shape)
    state = Checkpoint(config, model.state_dict(), faces.mean_shape, data=faces.description)
    save_checkpoint(tmp_path / "weights.pt", state)
    return tmp_path / "weights.pt"


@pytest.fixture
def weights(mean_shape_weights: Path) -> Path:
    """The same, for the files that need no others."""
    return mean_shape_weights


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
