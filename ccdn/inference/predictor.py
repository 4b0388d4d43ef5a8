"""A trained network that takes pictures: `ccdn.Predictor(weights)(image_bgr)`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ccdn.runtime.errors import ConfigError


class Faces(NamedTuple):
    """The faces of a picture, largest first. landmarks: (N, L, 2) float32 pixels, 0-based; boxes:
    (N, 4) float64 x0 y0 x1 y1, before margin and squaring.
    """

    landmarks: np.ndarray
    boxes: np.ndarray


class Predictor:
    """A trained network that takes pictures: `landmarks, boxes = Predictor(weights)(image_bgr)`.

    weights: a checkpoint of ccdn train or a safetensors file of ccdn export; None: the bundled
    weights, which `ccdn.checkpoint.bundled.about()` describes. batch_size: the number of faces in
    one forward pass. Several threads may share a predictor. Raises CheckpointError for any other
    file.
    """

    def __init__(
        self,
        weights: str | Path | None = None,
        device: str = "auto",
        flip_test: bool = False,
        batch_size: int = 16,
    ) -> None:
        from ccdn.checkpoint.bundled import DEFAULT_WEIGHTS
        from ccdn.checkpoint.load import load_model
        from ccdn.data import generic_layout
        from ccdn.runtime.device import pick_device

        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, found {batch_size}")
        self.device = pick_device(device)
        self.batch_size = batch_size
        self.model, self.checkpoint = load_model(
            DEFAULT_WEIGHTS if weights is None else Path(weights), self.device
        )
        self.config = self.checkpoint.config
        self.layout = generic_layout(self.config.model.points)
        if flip_test and self.layout.flip is None:
            raise ConfigError(f"no mirror permutation is known for {self.layout.points} points")
        self.flip = self.layout.flip if flip_test else None

    def __call__(self, image_bgr: np.ndarray, boxes: Sequence[np.ndarray] | None = None) -> Faces:
        """Every face of a picture, uint8 (H, W, 3) in OpenCV's channel order (BGR).

        boxes: (4,) x0 y0 x1 y1 in pixels around each face, brows to chin; None runs the detector.
        Raises ValueError for any other array, and for a box that is empty, not finite, outside the
        picture, or far larger than it.
        """
        check_image(image_bgr)
        image = np.ascontiguousarray(image_bgr[:, :, ::-1])
        found = self.detect(image) if boxes is None else _checked_boxes(boxes, image)
        return self.landmarks([image], [found])[0]

    def detect(self, image: np.ndarray) -> list[np.ndarray]:
        """Boxes of the faces that the detector finds in a picture, uint8 RGB, largest first.

        Raises ValueError for any other array.
        """
        from ccdn.data import detect_faces

        check_image(image)
        return detect_faces(image)

    def landmarks(
        self, images: Sequence[np.ndarray], boxes: Sequence[Sequence[np.ndarray]]
    ) -> list[Faces]:
        """Landmarks of the faces in boxes of several pictures, uint8 RGB, in batches of faces.

        Raises ValueError for any other arrays, if the numbers of pictures and lists of boxes
        differ, and for bad boxes, as a call does.
        """
        import torch

        from ccdn.data import crop_image, crop_matrix, square_box
        from ccdn.inference.crops import crop_to_image, predict_crops

        size, margin = self.config.model.input_size, self.config.data.margin
        crops: list[np.ndarray] = []
        matrices: list[np.ndarray] = []
        for image in images:
            check_image(image)
        for image, found in zip(images, boxes, strict=True):
            for box in _checked_boxes(found, image):
                matrices.append(crop_matrix(square_box(box, margin), size))
                crops.append(crop_image(image, matrices[-1], size).transpose(2, 0, 1))
        points: list[np.ndarray] = []
        for start in range(0, len(crops), self.batch_size):
            batch = torch.from_numpy(np.stack(crops[start : start + self.batch_size]))
            points.extend(predict_crops(self.model, batch.to(self.device), self.flip).cpu().numpy())
        placed = iter(
            crop_to_image(unit, matrix, size).astype(np.float32)
            for unit, matrix in zip(points, matrices, strict=True)
        )
        results = []
        for found in boxes:
            landmarks = [next(placed) for _ in found]
            empty = np.zeros((0, self.layout.points, 2), np.float32)
            results.append(
                Faces(
                    np.stack(landmarks) if landmarks else empty,
                    np.asarray(list(found), np.float64).reshape(-1, 4),
                )
            )
        return results


def check_image(image: Any) -> None:
    """Raise ValueError for anything but a picture, uint8 (H, W, 3), of at least one pixel."""
    expected = "image must be uint8 (H, W, 3) with at least one pixel"
    if image is None:
        raise ValueError(f"{expected}, found None, as cv2.imread gives for a file it cannot read")
    if not isinstance(image, np.ndarray):
        raise ValueError(f"{expected}, found {type(image).__name__}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"{expected}, found {image.dtype} {image.shape}")


def _checked_boxes(boxes: Any, image: np.ndarray) -> list[np.ndarray]:
    try:
        found = [np.asarray(box, np.float64) for box in boxes]
    except (TypeError, ValueError):
        found = [np.zeros(0)]
    for box in found:
        if box.shape != (4,) or not np.isfinite(box).all():
            raise ValueError(f"boxes must be 4 numbers x0 y0 x1 y1 for each face, found {boxes!r}")
        check_box("image", box, image)
    return found


def check_box(path: str | Path, box: np.ndarray, image: np.ndarray) -> None:
    """Raise DataError for a box that is empty, does not touch the picture or is far larger."""
    from ccdn.data import DataError

    x0, y0, x1, y1 = (float(value) for value in box)
    if not (x0 < x1 and y0 < y1):
        raise DataError(
            f"{path}: found an empty or inverted box {x0:g},{y0:g},{x1:g},{y1:g}, expected"
            " x0 < x1 and y0 < y1"
        )
    height, width = image.shape[:2]
    inside = x0 < width and y0 < height and x1 > 0 and y1 > 0
    if not inside or float((box[2:] - box[:2]).max()) > 5 * max(height, width):
        raise DataError(
            f"{path}: found the box {x0:g},{y0:g},{x1:g},{y1:g}, expected one that overlaps the"
            f" picture of {width} x {height} pixels and is at most five times as large"
        )
