"""Crops made on the device are the host's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from ccdn.config import Config, ConfigError, load_config, resolve_data
from ccdn.data import CropDataset
from ccdn.plan.faces import open_training_faces
from ccdn.plan.training import plan_training
from ccdn.synthetic_faces import SyntheticFaces
from ccdn.training.device_crops import DeviceCrops, warp
from ccdn.training.trainer import Trainer

CPU = torch.device("cpu")


def configure(folder: Path, small: list[str], *more: str) -> Config:
    config = load_config("tiny", [*small, f"data.root={folder}", *more])
    return replace(config, data=resolve_data(config.data))


def crops(folder: Path, small: list[str], augmentation: str) -> CropDataset:
    return open_training_faces(configure(folder, small, f"data.augmentation={augmentation}")).crops


@pytest.mark.parametrize("augmentation", ["none", "newell", "mmdn", "mild"])
@pytest.mark.parametrize("size", [32, 96])
def test_the_same_crops_as_on_the_host(
    augmentation: str, size: int, face_folder: Path, small: list[str]
) -> None:
    own = [f"model.input_size={size}" if "input_size" in text else text for text in small]
    host = crops(face_folder, own, augmentation)
    device = DeviceCrops(host, CPU)
    for epoch in (0, 3):
        host.set_epoch(epoch)
        device.set_epoch(epoch)
        indices = [7, 0, 19, 4, 4]
        found, wanted = device.batch(indices), host.batch(indices)
        assert torch.equal(found["landmarks"], wanted["landmarks"])
        for ours, theirs in zip(found["image"], wanted["image"], strict=True):
            # OpenCV rounds places to 1/32 pixel, and values twice: within half of that, of the
            # largest step to a neighbour, and a grey level or two (times the contrast's gain).
            a, b = ours.numpy().astype(float), theirs.numpy().astype(float)
            step = neighbours(np.maximum(a, b)) + neighbours(255 - np.minimum(a, b)) - 255
            assert (np.abs(a - b) <= 3 + step / 16).all()
            assert np.abs(a - b).mean() < 0.6


def neighbours(image: np.ndarray) -> np.ndarray:
    """The largest value around each pixel, (3, S, S)."""
    return cv2.dilate(image.transpose(1, 2, 0), np.ones((3, 3))).transpose(2, 0, 1)


def test_the_warp_against_the_definition() -> None:
    """Bilinear, in float64, pixel by pixel."""
    random = np.random.default_rng(0)
    picture = random.integers(0, 256, (2, 3, 9, 7))
    matrices = np.array([[[0.6, 0.3, -1.0], [-0.2, 0.8, 1.2]], [[-1.0, 0, 6.0], [0, 1.0, 0.25]]])
    size = 8
    found = warp(torch.from_numpy(picture).to(torch.uint8), torch.from_numpy(matrices), size)
    padded = np.pad(picture.astype(float), ((0, 0), (0, 0), (20, 20), (20, 20)))
    for face, matrix in enumerate(matrices):
        for y in range(size):
            for x in range(size):
                px, py = matrix @ [x, y, 1]
                left, top = int(np.floor(px)), int(np.floor(py))
                a, b = px - left, py - top
                four = padded[face, :, top + 20 : top + 22, left + 20 : left + 22]
                value = four[:, 0] @ [1 - a, a] * (1 - b) + four[:, 1] @ [1 - a, a] * b
                assert np.abs(found[face, :, y, x].numpy() - value).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("field", ["low_resolution", "occlusion"])
def test_what_the_host_alone_can_do_is_refused(
    field: str, face_folder: Path, small: list[str], tmp_path: Path
) -> None:
    config = configure(
        face_folder, small, "data.on_device=true", f"data.augmentation_fields.{field}=0.5"
    )
    with pytest.raises(ConfigError, match=rf"augmentation {field} is made on the host only"):
        Trainer(plan_training(config, open_training_faces(config), tmp_path))


def test_faces_that_change_with_the_epoch_are_refused() -> None:
    fresh = CropDataset(SyntheticFaces(2, size=64, fresh=True), size=32, augmentation="none")
    with pytest.raises(ConfigError, match=r"data\.synthetic\.fresh true, expected false"):
        DeviceCrops(fresh, CPU)


def test_crops_that_skip_pixels_are_refused(face_folder: Path, small: list[str]) -> None:
    more = ("data.augmentation=none", "data.augmentation_fields.distribution=uniform")
    config = configure(face_folder, small, *more, "data.augmentation_fields.scale_low=0.1")
    with pytest.raises(ConfigError, match=r"expected 0\.5 or more"):
        DeviceCrops(open_training_faces(config).crops, CPU)


def test_a_run_with_resident_crops(face_folder: Path, small: list[str], tmp_path: Path) -> None:
    """Resumes exactly, as with the host's crops."""
    from ccdn.checkpoint.load import load_checkpoint

    config = configure(face_folder, small, "data.on_device=true")
    faces = open_training_faces(config)
    for name in ("whole", "half"):
        (tmp_path / name).mkdir()
    Trainer(plan_training(config, faces, tmp_path / "whole")).fit()

    class StopError(Exception):
        pass

    def stop(step: int) -> None:
        if step == 5:
            raise StopError

    with pytest.raises(StopError):
        Trainer(plan_training(config, faces, tmp_path / "half"), after_step=stop).fit()
    half = load_checkpoint(tmp_path / "half/last.pt")
    assert half.step == 5
    Trainer(plan_training(config, faces, tmp_path / "half", half)).fit()
    ours, theirs = (load_checkpoint(tmp_path / name / "last.pt") for name in ("half", "whole"))
    assert all(torch.equal(ours.model[name], theirs.model[name]) for name in theirs.model)
