"""Cropping a face and moving its landmarks along. The conventions of all coordinates are here.

- Pixel coordinates: x to the right, y down, 0-based, the centre of a pixel at integers; so pixel 0
  covers [-0.5, 0.5], and an image of width W covers [-0.5, W - 0.5].
- A box (x0, y0, x1, y1) is in these coordinates. A crop of S pixels of a square box covers it
  exactly: position x0 is the left border of crop pixel 0 (crop coordinate -0.5), and x1 the right
  border of pixel S - 1 (crop coordinate S - 0.5).
- Unit coordinates of a crop, what the network predicts: u = (x + 0.5) / S, so that 0 and 1 are the
  borders of the box, whatever S is.
- A matrix (2, 3) maps image pixels to crop pixels: [x', y'] = M @ [x, y, 1].
"""

from __future__ import annotations

import math

import numpy as np

from ccdn.data.images import cv2
from ccdn.data.sampling import Sampler, torch_samples


def crop_matrix(
    box: np.ndarray,
    size: int,
    rotation: float = 0.0,
    scale: float = 1.0,
    shift: tuple[float, float] = (0.0, 0.0),
    flip: bool = False,
) -> np.ndarray:
    """Return the float64 (2, 3) matrix from image pixels to the pixels of a crop of a square box.

    `rotation` turns the face about the centre of the box, in degrees, counter-clockwise as seen
    on the screen; `scale` magnifies it in the crop; `shift` moves it right and down, in
    fractions of the crop; `flip` at last mirrors the crop left to right. Raises ValueError for a
    box that is empty, inverted or not square, a size below 1, or a scale that is not positive.
    """
    x0, y0, x1, y1 = (float(value) for value in box)
    width, height = x1 - x0, y1 - y0
    if not (width > 0 and height > 0 and math.isfinite(width + height)):
        raise ValueError(f"found the box ({x0}, {y0}, {x1}, {y1}), expected x0 < x1 and y0 < y1")
    if abs(width - height) > 1e-3 * width:
        raise ValueError(f"found a box of {width} x {height}, expected a square")
    if size < 1:
        raise ValueError(f"found a crop size of {size}, expected at least 1")
    if not (scale > 0 and math.isfinite(scale)):
        raise ValueError(f"found a scale of {scale}, expected a positive one")
    angle = math.radians(rotation)
    factor = scale * size / width
    cosine, sine = factor * math.cos(angle), factor * math.sin(angle)
    # y points down, so a counter-clockwise turn on the screen has the sine in the first row.
    linear = np.array([[cosine, sine], [-sine, cosine]])
    centre = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    target = np.array([shift[0] + 0.5, shift[1] + 0.5]) * size - 0.5
    matrix = np.column_stack([linear, target - linear @ centre])
    if flip:
        matrix[0] = -matrix[0]
        matrix[0, 2] += size - 1
    return matrix


def invert(matrix: np.ndarray) -> np.ndarray:
    """Return the (2, 3) matrix of the inverse map, float64."""
    matrix = np.asarray(matrix, dtype=np.float64)
    linear = np.linalg.inv(matrix[:, :2])
    return np.column_stack([linear, -linear @ matrix[:, 2]])


def compose(second: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Return the (2, 3) matrix that applies `first`, then `second`."""
    linear = second[:, :2] @ first[:, :2]
    return np.column_stack([linear, second[:, :2] @ first[:, 2] + second[:, 2]])


def transform_points(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Map points (..., 2) by a (2, 3) matrix; float32 points give float32, computed in float64."""
    points = np.asarray(points)
    matrix = np.asarray(matrix, dtype=np.float64)
    moved = points.astype(np.float64) @ matrix[:, :2].T + matrix[:, 2]
    return moved.astype(np.float32) if points.dtype == np.float32 else moved


def to_unit(points: np.ndarray, size: int) -> np.ndarray:
    """Crop pixels to unit coordinates: (x + 0.5) / size."""
    return (points + 0.5) / size


def from_unit(points: np.ndarray, size: int) -> np.ndarray:
    """Unit coordinates to crop pixels: u * size - 0.5."""
    return points * size - 0.5


def crop_image(
    image: np.ndarray,
    matrix: np.ndarray,
    size: int | tuple[int, int],
    border: int = 0,
    sampler: Sampler = torch_samples,
) -> np.ndarray:
    """Resample an image (H, W, 3) by a matrix into a crop of `size` (or (width, height)): uint8,
    or float32, which is not rounded.

    Bilinear; where the crop is smaller than half the original, the original is first averaged over
    whole blocks of pixels, so that nothing aliases. Outside the image is `border`. sampler: see
    `ccdn.data.sampling`.
    """
    width, height = (size, size) if isinstance(size, int) else size
    matrix = np.asarray(matrix, dtype=np.float64)
    factor = math.sqrt(abs(np.linalg.det(matrix[:, :2])))
    block = max(1, int(1.0 / factor)) if factor < 0.5 else 1
    part, matrix = _seen(image, matrix, (width, height), block, border)
    return sampler(part, invert(matrix), (width, height), border)


def _seen(
    image: np.ndarray, matrix: np.ndarray, size: tuple[int, int], block: int, border: int
) -> tuple[np.ndarray, np.ndarray]:
    """The part of the image that the crop sees, averaged over `block` x `block` pixels, and the
    matrix from it to the crop.
    """
    width, height = size
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], np.float64) - 0.5
    seen = transform_points(invert(matrix), corners)
    limit = np.array([image.shape[1], image.shape[0]])
    low = np.clip(np.floor(seen.min(0)) - 2 * block, 0, limit - 1).astype(int)
    high = np.clip(np.ceil(seen.max(0)) + 2 * block, low + 1, limit).astype(int)
    part = image[low[1] : high[1], low[0] : high[0]]
    if block > 1:
        right, bottom = (-part.shape[1]) % block, (-part.shape[0]) % block
        if right or bottom:
            part = cv2.copyMakeBorder(
                part, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=(border, border, border)
            )
        part = cv2.resize(
            part, (part.shape[1] // block, part.shape[0] // block), interpolation=cv2.INTER_AREA
        )
    # Small pixel i is the mean of pixels low + i * block ... low + (i + 1) * block - 1.
    offset = low + (block - 1) / 2
    to_image = np.array([[block, 0, offset[0]], [0, block, offset[1]]], np.float64)
    return part, compose(matrix, to_image)
