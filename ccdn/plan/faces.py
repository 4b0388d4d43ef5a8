"""Opens the faces of a run as configured: for training, held out, or for evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ccdn.config import Config, ConfigError, DataConfig, SyntheticConfig
from ccdn.data import (
    CropDataset,
    DataError,
    Face,
    FaceSet,
    Skipped,
    augmentation,
    landmark_box,
    mean_shape,
    open_faces,
)
from ccdn.runtime.quiet import no_warnings
from ccdn.synthetic_faces import VERSION, SyntheticFaces


class SomeFaces:
    """A part of a set of faces, by index."""

    def __init__(self, faces: FaceSet, indices: Sequence[int], name: str) -> None:
        self.name = name
        self.points = faces.points
        self.skipped: Skipped = faces.skipped
        self.orient = getattr(faces, "orient", None)
        self.fresh = getattr(faces, "fresh", False)
        self._faces = faces
        self._indices = list(indices)

    def __len__(self) -> int:
        return len(self._indices)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, of faces that differ by it."""
        if self.fresh:
            self._faces.set_epoch(epoch)  # type: ignore[attr-defined]

    def face(self, index: int) -> Face:
        """The face at an index of the part; reads no image."""
        return self._faces.face(self._indices[index])

    def image(self, index: int) -> np.ndarray:
        """The whole image of that face, uint8 RGB."""
        return self._faces.image(self._indices[index])


@dataclass
class TrainingFaces:
    """What a run trains on.

    mean_shape: (L, 2) float32, the mean of the training landmarks in [0, 1] of the crop. holdout:
    faces kept out of training to choose an epoch by, or None; holdout_boxes: their boxes (N, 4) for
    the norm face_size. description: what the faces are, for the record.
    """

    crops: CropDataset
    mean_shape: Tensor
    holdout: CropDataset | None
    holdout_boxes: np.ndarray | None
    description: dict[str, Any]


def open_split(data: DataConfig, split: str, points: int) -> FaceSet:
    """Open a split of the data. `data.kind` is settled (see `ccdn.config.resolve_data`).

    The synthetic splits are train and test, which differ by their seeds. Raises DataError when the
    split does not exist or its faces have another number of points than the model, naming both.
    """
    if data.kind == "synthetic":
        faces: FaceSet = _generated(data.synthetic, split, points)
    else:
        faces = open_faces(
            data.kind,
            data.root,
            split,
            skip_bad=data.skip_bad,
            missing_points=data.missing_points,
            orientation=data.orientation,
        )
    if faces.points != points:
        raise DataError(
            f"{faces.name}: its faces have {faces.points} points, the model has {points};"
            f" model.points={faces.points} would fit"
        )
    if data.limit is not None and data.limit < len(faces):
        faces = SomeFaces(faces, range(data.limit), f"{faces.name} (first {data.limit})")
    return faces


def _generated(made: SyntheticConfig, split: str, points: int) -> SyntheticFaces:
    chosen = {"train": (made.train, made.seed), "test": (made.test, made.test_seed)}
    if split not in chosen:
        raise DataError(f"generated faces have the splits train and test, found {split!r}")
    count, seed = chosen[split]
    try:
        return SyntheticFaces(
            count,
            seed,
            points=points,
            size=made.size,
            pose=made.pose,
            occlusion=made.occlusion,
            fresh=made.fresh and split == "train",
        )
    except ValueError as error:
        raise DataError(str(error)) from error


def describe(data: DataConfig, faces: FaceSet, split: str) -> dict[str, Any]:
    """What a set of faces is, as plain values: its kind, split, number, and the generator's
    settings if generated.
    """
    found: dict[str, Any] = {
        "kind": data.kind,
        "name": faces.name,
        "split": split,
        "faces": len(faces),
        "skipped": faces.skipped.count,
        "points": faces.points,
        "box": data.box,
        "margin": data.margin,
    }
    if data.kind == "synthetic":
        settings = asdict(data.synthetic)
        seed = settings["test_seed"] if split == "test" else settings["seed"]
        found["generator"] = {
            "version": VERSION,
            "seed": seed,
            "size": settings["size"],
            "pose_degrees": settings["pose"],
            "occlusion": settings["occlusion"],
            "fresh": settings["fresh"] and split != "test",
        }
    return found


def evaluation_crops(faces: FaceSet, config: Config, data: DataConfig | None = None) -> CropDataset:
    """Crops as the model knows them, without random changes and without a cache."""
    data = config.data if data is None else data
    return CropDataset(
        faces,
        size=config.model.input_size,
        box=data.box,
        margin=data.margin,
        augmentation="none",
        train=False,
        cache=False,
        missing_box=data.missing_box,
        finder=data.detector,
    )


def size_boxes(faces: FaceSet) -> np.ndarray:
    """The boxes of the norm face_size, (N, 4): those of the data, or else boxes around the
    landmarks.
    """
    boxes = []
    for index in range(len(faces)):
        face = faces.face(index)
        boxes.append(landmark_box(face.landmarks) if face.box is None else face.box)
    return np.asarray(boxes, np.float64)


def open_training_faces(config: Config) -> TrainingFaces:
    """Open the training split, set the holdout aside, and average the landmarks.

    Raises DataError or ConfigError.
    """
    data = config.data
    faces = open_split(data, data.train_split, config.model.points)
    description = describe(data, faces, data.train_split)
    holdout: FaceSet | None = None
    if data.holdout > 0:
        count = round(data.holdout * len(faces))
        if not 0 < count < len(faces):
            raise ConfigError(
                f"data.holdout is {data.holdout}: of {len(faces)} faces that holds out {count}"
            )
        order = np.random.default_rng(config.train.seed).permutation(len(faces))
        kept_out, kept = np.sort(order[:count]), np.sort(order[count:])
        # A set of its own: training faces are read in another thread, and sets keep state.
        with no_warnings():
            again = open_split(data, data.train_split, config.model.points)
        holdout = SomeFaces(again, kept_out.tolist(), f"{faces.name} (held out)")
        faces = SomeFaces(faces, kept.tolist(), faces.name)
        description["held_out"] = count
    try:
        changes = augmentation(data.augmentation, data.augmentation_fields)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"data.augmentation: {error}") from error
    crops = CropDataset(
        faces,
        size=config.model.input_size,
        box=data.box,
        margin=data.margin,
        augmentation=changes,
        seed=config.train.seed,
        cache=data.cache,
        cache_dir=data.cache_dir,
        missing_box=data.missing_box,
        finder=data.detector,
    )
    # Landmark boxes replace detections here: the mean only starts the regression, and running the
    # detector over all training pictures would cost more than it gains.
    box = "gt" if data.box == "detector" else data.box
    return TrainingFaces(
        crops=crops,
        mean_shape=torch.from_numpy(mean_shape(faces, box, data.margin)),
        holdout=None if holdout is None else evaluation_crops(holdout, config),
        holdout_boxes=None if holdout is None else size_boxes(holdout),
        description=description,
    )
