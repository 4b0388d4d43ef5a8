"""What people have as a picture becomes uint8 RGB."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from ccdn.checkpoint.state import CheckpointError
from ccdn.data import DataError
from ccdn.inference.pictures import as_rgb
from ccdn.inference.predictor import Predictor

RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)


def opaque(image: np.ndarray) -> np.ndarray:
    return np.dstack([image, np.full(image.shape[:2], 7, np.uint8)])


@pytest.mark.parametrize(
    ("given", "color"),
    [
        (RGB, "rgb"),
        (RGB[:, :, ::-1], "bgr"),
        (opaque(RGB), "rgb"),
        (opaque(RGB[:, :, ::-1]), "bgr"),
        (RGB / 255, "rgb"),
        ((RGB / 255).astype(np.float32), "rgb"),
        (torch.from_numpy(RGB).permute(2, 0, 1), "rgb"),
        (torch.from_numpy(RGB).permute(2, 0, 1) / 255, "rgb"),
        (torch.from_numpy(RGB[:, :, ::-1].copy()).permute(2, 0, 1).requires_grad_(False), "bgr"),
        (Image.fromarray(RGB), "rgb"),
        (Image.fromarray(RGB), "bgr"),  # PIL's own order is known
        (Image.fromarray(RGB).convert("RGBA"), "rgb"),
    ],
)
def test_colour(given: Any, color: str) -> None:
    found = as_rgb(given, color)
    np.testing.assert_array_equal(found, RGB)
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous


@pytest.mark.parametrize("shape", [(6, 9), (6, 9, 1)])
def test_grey(shape: tuple[int, ...]) -> None:
    grey = RGB[:, :, 0].reshape(shape)
    for given in (grey, grey / 255, Image.fromarray(grey[:, :9].reshape(6, 9))):
        np.testing.assert_array_equal(as_rgb(given), np.repeat(RGB[:, :, :1], 3, 2))
    for tensor in (torch.from_numpy(RGB[:, :, 0]), torch.from_numpy(RGB[:, :, 0])[None]):
        np.testing.assert_array_equal(as_rgb(tensor), np.repeat(RGB[:, :, :1], 3, 2))


def test_16_bits_of_a_tensor() -> None:
    half = torch.full((3, 4, 5), 0.5)
    for kind in (torch.bfloat16, torch.float16):
        np.testing.assert_array_equal(as_rgb(half.to(kind)), np.full((4, 5, 3), 128))


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), RGB[:, :, ::-1])
    for given in (path, str(path)):
        np.testing.assert_array_equal(as_rgb(given, "bgr"), RGB)
    with pytest.raises(DataError, match=r"gone\.png: image not found"):
        as_rgb(tmp_path / "gone.png")


def test_an_address_is_not_fetched() -> None:
    with pytest.raises(DataError, match=r"image not found; addresses are not fetched: download it"):
        as_rgb("https://pictures.example/face.jpg")
    with pytest.raises(CheckpointError, match=r"found nothing; addresses are not fetched"):
        Predictor("https://weights.example/last.pt")


def test_a_picture_of_pil_s_is_turned_by_its_orientation() -> None:
    image = Image.fromarray(RGB)
    image.getexif()[0x0112] = 6  # turned counter-clockwise when it was taken
    np.testing.assert_array_equal(as_rgb(image), np.rot90(RGB, -1))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, "found None, as cv2.imread gives for a file it cannot read"),
        (5, "found int"),
        (np.zeros((0, 9, 3), np.uint8), r"found uint8 \(0, 9, 3\)"),
        (np.zeros((3, 9, 9), np.uint8), r"found uint8 \(3, 9, 9\); array.transpose\(1, 2, 0\)"),
        (np.zeros((2, 9, 9, 3), np.uint8), "several pictures come as a list"),
        (np.zeros((9, 9, 5), np.uint8), r"found uint8 \(9, 9, 5\)"),
        (np.zeros((9, 9, 3), np.int64), "found int64"),
        (np.zeros((9, 9, 3), bool), "found bool"),
        (np.full((9, 9, 3), 255.0), "found floats from 255 to 255"),
        (np.full((9, 9, 3), np.nan), "found floats from nan"),
        (Image.fromarray(np.full((9, 9), 500, np.uint16)), "found a PIL image of mode I;16"),
        (Image.new("F", (9, 9), 0.5), "found a PIL image of mode F, expected 8 bits"),
        (torch.zeros(9, 9, 3), r"found a tensor \(9, 9, 3\)"),
        (torch.zeros(2, 3, 9, 9), r"found float32 \(2, 3, 9, 9\); several pictures"),
    ],
)
def test_anything_else_is_named(image: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"image must be a path, a PIL image, .*{message}"):
        as_rgb(image)


def test_the_order_of_channels_has_two_names() -> None:
    with pytest.raises(ValueError, match="color: expected rgb or bgr, found 'BGR'"):
        as_rgb(RGB, "BGR")
