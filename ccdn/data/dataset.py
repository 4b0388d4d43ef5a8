"""Crops of faces for training and evaluation."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ccdn.data.augment import Augmentation, augmentation, change_pixels, generator, sample_change
from ccdn.data.boxes import BOX_KINDS, NoFaceFoundError, face_box
from ccdn.data.crop import compose, crop_image, crop_matrix, to_unit, transform_points
from ccdn.data.crop_cache import CropCache, Region, has_source
from ccdn.data.detection import Detector, detector
from ccdn.data.faces import Face, FaceSet, check_landmarks_inside
from ccdn.data.images import DataError
from ccdn.data.layouts import Layout, generic_layout

log = logging.getLogger(__name__)

Sample = dict[str, Any]

# A box this many times longer than the image shows no face, and would need huge averages.
BOX_LIMIT = 20

# Cached pixels across the box per pixel of the crop: enough for the magnifications that are drawn
# often, and 3148 faces of full-size photographs then fit in a gigabyte.
CACHE_DETAIL = 1.25

# Systems let a process map about 65 thousand files; any beyond this number are mapped at each use.
MAPS_LIMIT = 30_000


class CropDataset(Dataset[Sample]):
    """Face crops with landmarks in unit coordinates, changed at random when training.

    An item is a dictionary: `image` uint8 (3, S, S) RGB; `landmarks` float32 (L, 2), in unit
    coordinates of the crop (see `ccdn.data.crop`); `visible` bool (L,), True where the
    annotation does not say; `index` int; `matrix` float32 (2, 3), from image pixels to crop
    pixels. Random draws depend only on (seed, epoch, index), not on the order or the number of
    workers. A dataset has a current epoch, so only one thread can train with it.
    """

    def __init__(
        self,
        faces: FaceSet,
        size: int = 128,
        box: str = "provided",
        margin: float = 0.25,
        augmentation: Augmentation | str = "newell",
        seed: int = 0,
        train: bool = True,
        cache: bool = True,
        cache_limit: int = 2 << 30,
        cache_dir: str | Path | None = None,
        layout: Layout | None = None,
        missing_box: str = "error",
        finder: str | Detector = "auto",
    ) -> None:
        """`train=False` switches every random change off.

        `cache` keeps, for each face, the pixels that any draw may need, at a resolution that suits
        the crop, up to `cache_limit` bytes. `cache_dir` is a folder that keeps them for other runs
        and processes (`ccdn.data.crop_cache`); faces without their own file, such as generated
        ones, are not kept there, and a warning reports it. `missing_box` decides what happens when
        box detector finds no face: error, or gt, which uses the landmark box and counts it in
        `missing_boxes`. `finder` is that detector, or its name. Without a known mirror permutation
        faces are not mirrored, and a warning reports it; `layout` can provide one. Raises DataError
        or ValueError for bad arguments, and immediately if the data lack a box of the requested
        kind.
        """
        if size < 8:
            raise ValueError(f"found a crop size of {size}, expected at least 8")
        if box not in BOX_KINDS:
            raise ValueError(f"found box {box!r}, expected one of {', '.join(BOX_KINDS)}")
        if missing_box not in ("error", "gt"):
            raise ValueError(f"found missing_box {missing_box!r}, expected error or gt")
        self.faces = faces
        self.size = size
        self.box = box
        self.margin = margin
        self.seed = seed
        self.train = train
        self.layout = layout if layout is not None else generic_layout(faces.points)
        if self.layout.points != faces.points:
            raise ValueError(
                f"the layout has {self.layout.points} points, {faces.name} has {faces.points}"
            )
        self.augmentation = self._choose(augmentation)
        self.missing_box = missing_box
        self.missing_boxes: set[int] = set()
        self.finder = finder  # not made here: it need not survive pickling
        self._flip = None if self.layout.flip is None else np.array(self.layout.flip)
        self.epoch = 0
        renewed = getattr(faces, "fresh", False)  # other faces in every epoch: none is seen again
        self._cache: dict[int, Region] | None = {} if cache and not renewed else None
        self._cache_left = cache_limit
        self.disk = None if cache_dir is None else self._open_disk(cache_dir)
        if box == "detector":
            detector(finder)  # raises if there is none of that name
        else:
            for index in range(len(faces)):  # microseconds per face; finds bad boxes early
                face_box(faces.face(index), box, margin)

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, index: int) -> Sample:
        image, landmarks, matrix = self.arrays(index)
        return {
            "image": torch.from_numpy(image),
            "landmarks": torch.from_numpy(landmarks),
            "visible": torch.from_numpy(self._visible(index, matrix)),
            "index": index,
            "matrix": torch.from_numpy(matrix),
        }

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose random numbers are drawn.

        It takes effect in this process and in worker processes started afterwards. Workers that
        outlive an epoch must call it themselves. Raises ValueError for a negative epoch.
        """
        if epoch < 0:
            raise ValueError(f"found epoch {epoch}, expected 0 or more")
        self.epoch = epoch
        if hasattr(self.faces, "set_epoch"):
            self.faces.set_epoch(epoch)

    def preload(self) -> None:
        """Fill the cache now, so that worker processes started afterwards share it."""
        for index in range(len(self)):
            self._region(index, self.faces.face(index))

    def region(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What any draw of a face may need: pixels uint8 (H, W, 3), the matrix (2, 3) from the
        image to them, which only scales and moves, and the square box including its margin.
        """
        found = self._region(index, self.faces.face(index))
        return found.pixels, found.matrix, found.box

    def batch(self, indices: Sequence[int]) -> Sample:
        """The items of several indices, stacked as by `collate`, without a loader."""
        return collate([self[int(index)] for index in indices])

    def arrays(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """An item in numpy: image (3, S, S) uint8, landmarks (L, 2) and matrix (2, 3) float32."""
        if not 0 <= index < len(self):
            raise IndexError(f"found index {index}, expected 0 to {len(self) - 1}")
        face = self.faces.face(index)
        region = self._region(index, face)
        pixels = region.pixels
        drawn = sample_change(self.augmentation, generator(self.seed, self.epoch, index))
        matrix = crop_matrix(
            region.box, self.size, drawn.rotation, drawn.scale, drawn.shift, drawn.flip
        )
        if self.augmentation.is_geometric:
            crop = crop_image(pixels, _after(matrix, region.matrix), self.size)
        else:  # the region is the crop itself
            crop = pixels[:, ::-1].copy() if drawn.flip else pixels.copy()
        crop = change_pixels(crop, drawn)
        landmarks = to_unit(transform_points(matrix, face.landmarks.astype(np.float64)), self.size)
        if drawn.flip:
            landmarks = landmarks[self._flip]
        return (
            np.ascontiguousarray(crop.transpose(2, 0, 1)),
            landmarks.astype(np.float32),
            matrix.astype(np.float32),
        )

    def _visible(self, index: int, matrix: np.ndarray) -> np.ndarray:
        """Which landmarks of an item can be seen, (L,) bool."""
        given = self.faces.face(index).visible
        visible = np.ones(self.layout.points, bool) if given is None else np.array(given, bool)
        mirrored = bool(np.linalg.det(matrix[:, :2]) < 0)
        return visible[self._flip] if mirrored else visible

    def _choose(self, chosen: Augmentation | str) -> Augmentation:
        wanted = augmentation(chosen) if isinstance(chosen, str) else chosen
        if not self.train:
            return augmentation("none")
        if wanted.flip > 0 and self.layout.flip is None:
            log.warning(
                "%s: faces are not mirrored: no mirror permutation is known for %d points "
                "(in Python, CropDataset(layout=generic_layout(%d, flip=...)) gives one)",
                self.faces.name,
                self.faces.points,
                self.faces.points,
            )
            return augmentation("none", {**vars(wanted), "flip": 0.0})
        return wanted

    def _open_disk(self, folder: str | Path) -> CropCache | None:
        if not all(has_source(self.faces.face(index)) for index in range(len(self.faces))):
            log.warning(
                "%s: not kept in %s: faces that have no file cannot be checked against it",
                self.faces.name,
                folder,
            )
            return None
        how: dict[str, Any] = {"size": self.size, "box": self.box, "margin": self.margin}
        how |= {"detail": CACHE_DETAIL, "missing_box": self.missing_box}
        if self.box == "detector":
            how["detector"] = detector(self.finder).name
        # The changes only determine how far around the box pixels are needed.
        how["reach"] = self.augmentation.reach if self.augmentation.is_geometric else None
        how["orient"] = getattr(self.faces, "orient", None)
        return CropCache(folder, how)

    def _box(self, face: Face, image: np.ndarray) -> tuple[np.ndarray, bool]:
        """The square box, and whether it is the landmarks' because the detector found none."""
        try:
            found = face_box(face, self.box, self.margin, lambda: image, self.finder)
            return found, False
        except NoFaceFoundError as error:
            if self.missing_box == "error":
                raise
            log.warning("%s: the landmark box is used", error)
            return face_box(face, "gt", self.margin), True

    def _region(self, index: int, face: Face) -> Region:
        """The pixels that any draw of a face may need: from memory, the disk, or its image."""
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        region = None if self.disk is None else self.disk.load(face)
        mapped = region is not None
        if region is None:
            region = self._read_region(face, self.faces.image(index))
            if self.disk is not None:
                self.disk.save(face, region)
        if region.missing:
            self.missing_boxes.add(index)
        if self._cache is not None:
            self._keep(index, region, mapped)
        return region

    def _read_region(self, face: Face, image: np.ndarray) -> Region:
        box, missing = self._box(face, image)
        _check_inside(face, image, box)
        if self.augmentation.is_geometric:
            pixels, to_region = self._cut(image, box)
        else:
            to_region = crop_matrix(box, self.size)
            pixels = crop_image(image, to_region, self.size)
        return Region(pixels, to_region, box, missing)

    def _keep(self, index: int, region: Region, mapped: bool) -> None:
        """Keep a region in memory, within the limits; mapped regions do not count."""
        assert self._cache is not None
        if mapped:
            if len(self._cache) < MAPS_LIMIT:
                self._cache[index] = region
        elif region.pixels.nbytes <= self._cache_left:
            self._cache[index] = region
            self._cache_left -= region.pixels.nbytes
        elif self._cache_left > 0:
            log.warning(
                "%s: the cache is full with %d of %d faces; the others are read each time",
                self.faces.name,
                len(self._cache),
                len(self),
            )
            self._cache_left = 0

    def _cut(self, image: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The part of the image within reach, resampled if it is much finer than needed."""
        side = float(box[2] - box[0])
        reach = self.augmentation.reach
        centre = (box[:2] + box[2:]) / 2
        finest = CACHE_DETAIL * self.size  # pixels over the box
        if side > finest:
            size = int(np.ceil(reach * finest))
            half = size / finest * side / 2
            square = np.concatenate([centre - half, centre + half])
            matrix = crop_matrix(square, size)
            return crop_image(image, matrix, size), matrix
        limit = np.array([image.shape[1], image.shape[0]])
        low = np.clip(np.floor(centre - reach * side / 2).astype(int) - 1, 0, limit - 1)
        high = np.clip(np.ceil(centre + reach * side / 2).astype(int) + 2, low + 1, limit)
        pixels = image[low[1] : high[1], low[0] : high[0]].copy()
        return pixels, np.array([[1, 0, -low[0]], [0, 1, -low[1]]], np.float64)


def collate(samples: Sequence[Sample]) -> Sample:
    """Stack items to a batch: image uint8 (B, 3, S, S), landmarks (B, L, 2), visible (B, L), index
    (B,), matrix (B, 2, 3).
    """
    return {
        "image": torch.stack([sample["image"] for sample in samples]),
        "landmarks": torch.stack([sample["landmarks"] for sample in samples]),
        "visible": torch.stack([sample["visible"] for sample in samples]),
        "index": torch.tensor([sample["index"] for sample in samples], dtype=torch.int64),
        "matrix": torch.stack([sample["matrix"] for sample in samples]),
    }


def _after(matrix: np.ndarray, to_region: np.ndarray) -> np.ndarray:
    """The map from the region to the crop, when the region is only scaled and moved."""
    scale_x, scale_y = to_region[0, 0], to_region[1, 1]
    back = np.array(
        [
            [1 / scale_x, 0, -to_region[0, 2] / scale_x],
            [0, 1 / scale_y, -to_region[1, 2] / scale_y],
        ]
    )
    return compose(matrix, back)


def _check_inside(face: Face, image: np.ndarray, box: np.ndarray) -> None:
    height, width = image.shape[:2]
    if box[2] - box[0] > BOX_LIMIT * max(height, width):
        raise DataError(
            f"{face.where}: found a box of {box[2] - box[0]:g} pixels, margin included,"
            f" expected at most {BOX_LIMIT} times the image of {width} x {height}"
        )
    check_landmarks_inside(face, width, height, float(box[2] - box[0]))
