"""Landmarks move exactly with the pixels, to a thousandth of a pixel, as read from the pictures.

The picture is a smooth pattern of which every value is known. Of a crop the landmarks alone say
which place of the pattern each pixel should show; how far the pixels are from that is found by
least squares over the whole crop, as a shift and a linear part. The picture is float32: rounding to
8 bits draws what is smooth towards the nearest pixel, by some hundredths of one.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest

from ccdn.data import Augmentation, CropDataset, Face, Skipped, layout
from ccdn.data.augment import Change, change_pixels
from ccdn.data.crop import crop_image, crop_matrix, from_unit, transform_points

EXACT = 1e-3  # pixels of the crop
SIZE = 192
LENGTH = 60.0  # of a wave in the crop; bilinear samples of short ones lag behind


class Waves:
    """A photograph (side x side) of waves, some `length` pixels long, with landmarks on it."""

    def __init__(self, side: int, box: tuple[float, float, float, float], length: float) -> None:
        random = np.random.default_rng(3)
        self.name, self.points, self.skipped = "waves", 68, Skipped()
        self.side = side
        turns = np.array([0.3, 1.9])
        numbers = 2 * np.pi / (length * np.array([1.0, 0.9]))
        self.waves = numbers[:, None] * np.stack([np.cos(turns), np.sin(turns)], 1)
        self.phase = random.uniform(0, 2 * np.pi, (2, 3))
        spots = random.uniform(0.2, 0.8, (68, 2)) * (box[2] - box[0]) + box[:2]
        self._face = Face("waves", spots.astype(np.float32), np.array(box, np.float32))
        places = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).astype(float)
        self._image = (127.5 + self.at(places)[0].sum(-2)).astype(np.float32)

    def at(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Waves (..., 2, 3) about 127.5 at pixels (..., 2), and gradients (..., 2, 3) of all."""
        angle = np.einsum("...c,wc->...w", places, self.waves)[..., None] + self.phase
        return 60 * np.sin(angle), 60 * np.einsum("...wk,wc->...ck", np.cos(angle), self.waves)

    def __len__(self) -> int:
        return 1

    def face(self, index: int) -> Face:
        return self._face

    def image(self, index: int) -> np.ndarray:
        return self._image


def affine(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The (2, 3) matrix that takes points (n, 2) to others, by least squares, and no error left."""
    rows = np.column_stack([source, np.ones(len(source))])
    found, *_ = np.linalg.lstsq(rows, target, rcond=None)
    np.testing.assert_allclose(rows @ found, target, atol=2e-3)
    return found.T


def offsets(waves: Waves, crop: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """How far (68, 2), in pixels, a crop (S, S, 3) is from its landmarks (68, 2), at each."""
    size = len(crop)
    to_source = affine(landmarks, waves.face(0).landmarks.astype(np.float64))
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1).astype(float)
    places = transform_points(to_source, grid)
    values, gradients = waves.at(places)
    gradients = np.einsum("...ck,cd->...dk", gradients, to_source[:, :2])  # by pixels of the crop
    reach = 2 + 3 * math.sqrt(abs(np.linalg.det(to_source[:, :2])))
    inside = ((places > reach) & (places < waves.side - 1 - reach)).all(-1)
    assert inside.mean() > 0.3
    x, y = (grid[inside][:, k, None] / size for k in (0, 1))
    gx, gy = gradients[inside].transpose(1, 0, 2)
    # Averaging and interpolation weaken each wave a little.
    waved = list(values[inside].transpose(1, 0, 2))
    columns = [gx, gx * x, gx * y, gy, gy * x, gy * y, *waved, np.ones_like(gx)]
    system = np.stack([column.ravel() for column in columns], 1)
    wanted = (crop[inside].astype(float) - 127.5 - values[inside].sum(1)).ravel()
    found, *_ = np.linalg.lstsq(system, wanted, rcond=None)
    u = landmarks / size
    there = np.column_stack([np.ones(len(u)), u])
    return np.stack([there @ found[:3], there @ found[3:6]], 1)


def crop_of(waves: Waves, changes: Augmentation, size: int = SIZE, epoch: int = 0) -> np.ndarray:
    """Offsets of the crop that the data set makes."""
    crops = CropDataset(waves, size, margin=0.0, augmentation=changes, seed=1)
    crops.set_epoch(epoch)
    image, landmarks, matrix = crops.arrays(0)
    if np.linalg.det(matrix[:, :2]) < 0:
        landmarks = landmarks[list(layout(68).flip or ())]  # its own inverse
    points = from_unit(landmarks.astype(np.float64), size)
    return offsets(waves, image.transpose(1, 2, 0), points)


CHANGES = {
    "nothing": Augmentation(),
    "flip": Augmentation(flip=1.0),
    "rotation": Augmentation(rotation=30.0),
    "scale": Augmentation(scale=0.3),
    "shift": Augmentation(shift=0.06),
    "all": Augmentation(rotation=30.0, scale=0.25, shift=0.05, flip=0.5),
}
# A photograph's side, a box in it, and so many of its pixels in one of the crop.
PHOTOGRAPHS = {
    "finer": (240, (40.3, 30.7, 184.3, 174.7), 0.75),
    "same": (300, (50.37, 40.61, 242.37, 232.61), 1.0),
    "same, on the pixels": (300, (49.5, 39.5, 241.5, 231.5), 1.0),
    "coarser": (480, (60.2, 50.9, 397.1, 387.8), 1.755),
    "much coarser": (660, (40.4, 60.3, 560.1, 580.0), 2.71),
}


@cache
def waves_of(photograph: str) -> Waves:
    side, box, pixels = PHOTOGRAPHS[photograph]
    return Waves(side, box, LENGTH * pixels)


@pytest.mark.parametrize("photograph", list(PHOTOGRAPHS))
@pytest.mark.parametrize("changes", list(CHANGES))
def test_crops(photograph: str, changes: str) -> None:
    waves = waves_of(photograph)
    for epoch in range(3 if changes == "all" else 1):
        found = crop_of(waves, CHANGES[changes], epoch=epoch)
        assert np.abs(found).max() < EXACT, (photograph, changes, epoch)


def test_the_measure_sees_a_hundredth_of_a_pixel() -> None:
    waves = waves_of("same")
    matrix = crop_matrix(np.array(PHOTOGRAPHS["same"][1]), SIZE, 12.0, 1.1)
    crop = crop_image(waves.image(0), matrix, SIZE)
    points = transform_points(matrix, waves.face(0).landmarks.astype(np.float64))
    assert np.abs(offsets(waves, crop, points)).max() < EXACT
    for moved in ((0.01, 0.0), (0.0, -0.01)):
        np.testing.assert_allclose(
            np.abs(offsets(waves, crop, points + moved)).max(0), np.abs(moved), atol=EXACT
        )
    turned = transform_points(np.array([[1, 2e-4, 0], [-2e-4, 1, 0.0]]), points)
    assert np.abs(offsets(waves, crop, turned)).max() > 0.02


@pytest.mark.parametrize("shrink", [1.3, 2.0, 2.7, 3.2, 4.0])
def test_low_resolution_keeps_the_places(shrink: float) -> None:
    side = SIZE
    box = (-0.5, -0.5, side - 0.5, side - 0.5)
    waves = Waves(side, box, 2 * LENGTH)
    crop = change_pixels(waves.image(0).copy(), Change(low_resolution=shrink))
    assert not np.array_equal(crop, waves.image(0))
    points = waves.face(0).landmarks.astype(np.float64)
    assert np.abs(offsets(waves, crop, points)).max() < EXACT
