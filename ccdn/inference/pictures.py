"""What people have as a picture, as uint8 RGB (H, W, 3)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from ccdn.data import read_image

COLORS = ("rgb", "bgr")
EXPECTED = (
    "image must be a path, a PIL image, an array (H, W), (H, W, 3) or (H, W, 4), or a tensor"
    " (C, H, W), uint8 or float in [0, 1], with at least one pixel"
)


def as_rgb(image: Any, color: str = "rgb") -> np.ndarray:
    """A picture as uint8 RGB (H, W, 3), contiguous.

    image: a path; a PIL image, turned by its EXIF orientation; an array (H, W), (H, W, 1), (H, W,
    3) or (H, W, 4); or a torch tensor (H, W) or (C, H, W) with C 1, 3 or 4. Arrays and tensors are
    uint8, or float in [0, 1]. A fourth channel, alpha, is dropped. color: the order of the channels
    of arrays and tensors, rgb or bgr. Raises ValueError for anything else, DataError for a file
    that is not a picture.
    """
    if color not in COLORS:
        raise ValueError(f"color: expected {' or '.join(COLORS)}, found {color!r}")
    if image is None:
        raise ValueError(f"{EXPECTED}; found None, as cv2.imread gives for a file it cannot read")
    if isinstance(image, (str, os.PathLike)):
        return read_image(Path(image))
    if hasattr(image, "convert") and hasattr(image, "getexif"):  # PIL's, which need not be there
        from PIL import ImageOps

        if image.mode.startswith(("I", "F")):  # PIL would cut their values off at 255
            raise ValueError(f"{EXPECTED}; found a PIL image of mode {image.mode}, expected 8 bits")
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    if hasattr(image, "detach"):
        image = _of_tensor(image)
    if not isinstance(image, np.ndarray):
        raise ValueError(f"{EXPECTED}; found {type(image).__name__}")
    pixels = image[:, :, None] if image.ndim == 2 else image
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or not pixels.size:
        raise ValueError(f"{EXPECTED}; found {image.dtype} {image.shape}{_hint(image)}")
    pixels = np.repeat(pixels, 3, 2) if pixels.shape[2] == 1 else pixels[:, :, :3]
    if color == "bgr":
        pixels = pixels[:, :, ::-1]
    return np.ascontiguousarray(_as_bytes(pixels))


def is_several(images: Any) -> bool:
    """Whether it is a list or a tuple of pictures, not one picture."""
    return isinstance(images, (list, tuple))


def _of_tensor(tensor: Any) -> np.ndarray:
    if tensor.is_floating_point():
        tensor = tensor.float()  # numpy has no bfloat16
    array: np.ndarray = tensor.detach().cpu().numpy()
    if array.ndim == 3 and array.shape[0] not in (1, 3, 4):
        raise ValueError(f"{EXPECTED}; found a tensor {tuple(array.shape)}")
    return array.transpose(1, 2, 0) if array.ndim == 3 else array


def _hint(image: np.ndarray) -> str:
    if image.ndim == 3 and image.shape[0] in (1, 3, 4):
        return "; array.transpose(1, 2, 0) puts the channels last"
    return "; several pictures come as a list" if image.ndim == 4 else ""


def _as_bytes(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    if not np.issubdtype(pixels.dtype, np.floating):
        raise ValueError(f"{EXPECTED}; found {pixels.dtype}")
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"{EXPECTED}; found floats from {low:g} to {high:g}")
    return np.round(pixels * 255).astype(np.uint8)
