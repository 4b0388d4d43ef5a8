"""Bilinear samples of an image: with torch for training, with NumPy for prediction.

Both place samples to a thousandth of a pixel and better. OpenCV's warpAffine and remap place them
on a grid of 1/32 pixel, which moves a crop that is neither turned nor scaled by up to 1/64 pixel
from its landmarks. torch's samples take half the time of NumPy's; NumPy's need no torch, whose
import takes most of the time of a first prediction, and round halves alike everywhere.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ccdn.data.images import cv2

# An image (H, W, 3), the float64 matrix (2, 3) from the pixels of the result to those of the image,
# the (width, height) of the result, and the value outside the image, to the result (height, width,
# 3) of the same dtype.
Sampler = Callable[[np.ndarray, np.ndarray, tuple[int, int], int], np.ndarray]


def torch_samples(
    image: np.ndarray, inverse: np.ndarray, size: tuple[int, int], border: int
) -> np.ndarray:
    """A `Sampler`: torch's grid_sample, whose places are float32."""
    import torch

    (width, height), (rows, columns) = size, image.shape[:2]
    x, y = np.arange(width), np.arange(height)
    # grid_sample counts from -1 to 1 between the borders of the image.
    places = []
    for (across, down, start), length in zip(inverse, (columns, rows), strict=True):
        along_x = (2 * across / length * x).astype(np.float32)
        along_y = (2 * down / length * y + ((2 * start + 1) / length - 1)).astype(np.float32)
        places.append(np.add.outer(along_y, along_x))
    planes = np.array(cv2.split(np.ascontiguousarray(image)), np.float32)
    if border:
        planes -= np.float32(border)
    found = torch.nn.functional.grid_sample(
        torch.from_numpy(planes)[None],
        torch.from_numpy(cv2.merge(places))[None],
        align_corners=False,
    )
    values = found[0].numpy() + np.float32(border + 0.5 * (image.dtype == np.uint8))
    return cv2.merge(values.astype(image.dtype))


def numpy_samples(
    image: np.ndarray, inverse: np.ndarray, size: tuple[int, int], border: int
) -> np.ndarray:
    """A `Sampler` whose places are float64."""
    (width, height), (rows, columns) = size, image.shape[:2]
    framed = cv2.copyMakeBorder(image, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=(border,) * 3)
    x, y = np.arange(width), np.arange(height)
    cells, shares = [], []
    for (across, down, start), length in zip(inverse, (columns, rows), strict=True):
        places = np.add.outer(down * y + (start + 1), across * x).clip(0, length + 1)
        cell = np.minimum(places.astype(np.intp), length)  # of the frame's, so that it has a next
        cells.append(cell)
        shares.append((places - cell).astype(np.float32)[..., None])
    pixels = framed.reshape(-1, 3).astype(np.float32)
    corner = cells[1] * (columns + 2) + cells[0]

    def between(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
        second -= first
        second *= share
        second += first
        return second

    upper = between(pixels.take(corner, 0), pixels.take(corner + 1, 0), shares[0])
    corner += columns + 2
    lower = between(pixels.take(corner, 0), pixels.take(corner + 1, 0), shares[0])
    values = between(upper, lower, shares[1])
    if image.dtype == np.uint8:
        values += np.float32(0.5)
    return values.astype(image.dtype)
