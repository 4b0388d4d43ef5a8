"""CropDataset: what an item is, that it repeats, and that pixels and landmarks agree."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ccdn.data import (
    Augmentation,
    CropDataset,
    DataError,
    Face,
    collate,
    from_unit,
    generic_layout,
    invert,
    layout,
    transform_points,
)


def _same(one: dict, other: dict) -> bool:
    return all(torch.equal(torch.as_tensor(one[key]), torch.as_tensor(other[key])) for key in one)


def test_item_is_as_promised(memory_faces: Callable) -> None:
    crops = CropDataset(memory_faces(), size=32, augmentation="mild")
    item = crops[3]
    assert set(item) == {"image", "landmarks", "visible", "index", "matrix"}
    assert item["visible"].tolist() == [True] * 68  # not annotated
    assert (item["image"].dtype, tuple(item["image"].shape)) == (torch.uint8, (3, 32, 32))
    assert (item["landmarks"].dtype, tuple(item["landmarks"].shape)) == (torch.float32, (68, 2))
    assert (item["matrix"].dtype, tuple(item["matrix"].shape)) == (torch.float32, (2, 3))
    assert item["index"] == 3
    batch = crops.batch([3, 0])
    assert tuple(batch["image"].shape) == (2, 3, 32, 32)
    assert batch["index"].tolist() == [3, 0]
    assert torch.equal(batch["landmarks"][0], item["landmarks"])
    assert len(crops) == 6
    with pytest.raises(IndexError, match="found index 6, expected 0 to 5"):
        crops[6]


def test_matrix_leads_back_to_the_image(memory_faces: Callable) -> None:
    faces = memory_faces()
    crops = CropDataset(faces, size=48, augmentation="newell")
    flip = np.array(layout(68).flip)
    flipped = 0
    for index in range(len(crops)):
        item = crops[index]
        matrix = item["matrix"].numpy().astype(np.float64)
        back = transform_points(invert(matrix), from_unit(item["landmarks"].numpy(), 48))
        mirrored = bool(np.linalg.det(matrix[:, :2]) < 0)
        flipped += mirrored
        expected = faces.face(index).landmarks[flip if mirrored else slice(None)]
        np.testing.assert_allclose(back, expected, atol=1e-3)
    assert 0 < flipped < len(crops)


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("side", [96, 700])
@pytest.mark.parametrize("preset", ["newell", "mmdn", "none"])
def test_a_bright_dot_stays_on_its_landmark(preset: str, side: int, cache: bool) -> None:
    random = np.random.default_rng(5)
    faces, images = [], []
    y, x = np.mgrid[:side, :side]
    for i in range(8):
        spots = random.uniform(0.3 * side, 0.7 * side, (68, 2)).astype(np.float32)
        spots[:2] = [[0.28 * side, 0.28 * side], [0.72 * side, 0.72 * side]]
        centre = spots[30]
        sigma = max(1.5, side / 90)
        value = 250 * np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * sigma**2))
        images.append(np.repeat(np.rint(value).astype(np.uint8)[..., None], 3, axis=2))
        faces.append(Face(f"{i}", spots))

    class Dots:
        name, points = "dots", 68

        def __len__(self) -> int:
            return len(faces)

        def face(self, index: int) -> Face:
            return faces[index]

        def image(self, index: int) -> np.ndarray:
            return images[index]

    crops = CropDataset(Dots(), 64, "gt", 0.4, augmentation=preset, cache=cache)  # type: ignore[arg-type]
    grid_y, grid_x = np.mgrid[:64, :64]
    for index in range(8):
        for _ in range(2):  # the second time from the cache
            image, landmarks, _ = crops.arrays(index)
            x30, y30 = from_unit(landmarks[30], 64)
            if not (8 < x30 < 56 and 8 < y30 < 56):
                continue  # the dot is cut by the border of the crop
            weight = image[0].astype(float)
            found = np.array([(weight * grid_x).sum(), (weight * grid_y).sum()]) / weight.sum()
            np.testing.assert_allclose(found, [x30, y30], atol=0.1)


@pytest.mark.parametrize("preset", ["newell", "strong", "mild"])
def test_the_cache_loses_no_pixels(memory_faces: Callable, preset: str) -> None:
    faces = memory_faces(count=12, side=64)
    with_cache = CropDataset(faces, 32, "gt", augmentation=preset, seed=4)
    without = CropDataset(faces, 32, "gt", augmentation=preset, seed=4, cache=False)
    # Small pictures are kept at their own resolution, so the crops may not differ at all; what lies
    # beyond the kept region would be black.
    for index in range(len(faces)):
        image, landmarks, matrix = with_cache.arrays(index)
        again, _, _ = with_cache.arrays(index)
        direct, direct_landmarks, direct_matrix = without.arrays(index)
        np.testing.assert_array_equal(image, again)
        assert abs(image.astype(int) - direct.astype(int)).max() <= 1
        np.testing.assert_array_equal(landmarks, direct_landmarks)
        np.testing.assert_array_equal(matrix, direct_matrix)


def test_images_are_read_once(memory_faces: Callable) -> None:
    faces = memory_faces()
    crops = CropDataset(faces, 32, augmentation="newell")
    crops.preload()
    assert faces.reads == 6
    for index in range(6):
        crops[index]
    assert faces.reads == 6


def test_a_full_cache_says_so(memory_faces: Callable, caplog: pytest.LogCaptureFixture) -> None:
    faces = memory_faces()
    full = CropDataset(faces, 32, augmentation="newell", cache_limit=25_000)
    unlimited = CropDataset(faces, 32, augmentation="newell")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            for index in range(6):
                assert _same(full[index], unlimited[index])
    assert caplog.text.count("the cache is full with") == 1


def test_draws_change_with_epoch_and_seed_not_with_order(memory_faces: Callable) -> None:
    faces = memory_faces()
    crops = CropDataset(faces, 32, seed=3)
    first = [crops[index] for index in range(6)]
    crops.set_epoch(5)
    later = [crops[index] for index in reversed(range(6))][::-1]
    assert not any(_same(one, other) for one, other in zip(first, later, strict=True))
    fresh = CropDataset(faces, 32, seed=3)
    fresh.set_epoch(5)
    assert all(_same(fresh[index], later[index]) for index in (4, 1, 0, 5, 3, 2))
    other_seed = CropDataset(faces, 32, seed=4)
    assert not _same(other_seed[0], first[0])
    with pytest.raises(ValueError, match="found epoch -1"):
        crops.set_epoch(-1)


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_gives_the_same_whatever_the_workers(memory_faces: Callable, workers: int) -> None:
    crops = CropDataset(memory_faces(), 32, seed=1)
    loader = DataLoader(crops, batch_size=4, num_workers=workers, collate_fn=collate)
    for epoch in (0, 1):
        crops.set_epoch(epoch)
        batches = list(loader)
        assert [batch["index"].tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5]]
        assert _same(batches[1], crops.batch([4, 5]))


def test_without_training_nothing_is_random(memory_faces: Callable) -> None:
    faces = memory_faces()
    crops = CropDataset(faces, 32, augmentation="strong", train=False)
    plain = CropDataset(faces, 32, augmentation="none")
    before = crops[2]
    crops.set_epoch(9)
    assert _same(crops[2], before)
    assert _same(crops[2], plain[2])


def test_flip_alone_mirrors_pixels_and_points(memory_faces: Callable) -> None:
    faces = memory_faces()
    plain = CropDataset(faces, 32, augmentation="none")
    mirrored = CropDataset(faces, 32, augmentation=Augmentation(flip=1.0))
    one, other = plain[1], mirrored[1]
    assert torch.equal(one["image"].flip(2), other["image"])
    expected = one["landmarks"][list(layout(68).flip or ())] * torch.tensor([-1.0, 1.0])
    expected[:, 0] += 1
    torch.testing.assert_close(other["landmarks"], expected, atol=1e-6, rtol=0)


def test_unknown_layouts_are_not_mirrored_and_it_is_said(
    memory_faces: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    faces = memory_faces(points=5)
    with caplog.at_level(logging.WARNING):
        crops = CropDataset(faces, 32, augmentation="newell")
    assert "no mirror permutation is known for 5 points" in caplog.text
    assert crops.augmentation.flip == 0
    assert crops.augmentation.rotation == 30
    caplog.clear()
    given = generic_layout(5, flip=[1, 0, 2, 4, 3])
    assert CropDataset(faces, 32, augmentation="newell", layout=given).augmentation.flip == 0.5
    assert not caplog.text
    with pytest.raises(ValueError, match="the layout has 68 points, made has 5"):
        CropDataset(faces, 32, layout=layout(68))


def test_missing_boxes(memory_faces: Callable, caplog: pytest.LogCaptureFixture) -> None:
    faces = memory_faces()
    with pytest.raises(DataError, match="face 0: the detector found 0 boxes"):
        CropDataset(faces, 32, box="detector")[0]
    counted = CropDataset(faces, 32, box="detector", missing_box="gt", augmentation="none")
    landmarks = CropDataset(faces, 32, box="gt", augmentation="none")
    assert _same(counted[0], landmarks[0])
    assert counted.missing_boxes == {0}
    assert "the landmark box is used" in caplog.text
    faces.faces[4] = Face("bare", faces.face(4).landmarks)
    with pytest.raises(DataError, match="bare: the data provide no box"):
        CropDataset(faces, 32, box="provided")


def test_landmarks_far_outside_the_image_are_an_error(memory_faces: Callable) -> None:
    faces = memory_faces()
    near = faces.face(0).landmarks.copy()
    near[7] = [-5, 30]  # annotators guess a little beyond the border
    far = faces.face(1).landmarks + 200
    faces.faces[:2] = [Face("near", near), Face("far", far)]
    crops = CropDataset(faces, 32, "gt")
    assert crops[0]["index"] == 0
    with pytest.raises(
        DataError, match=r"far: landmark \d+ at \(.*far outside the image of 64 x 64"
    ):
        crops[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 4}, "found a crop size of 4"),
        ({"box": "best"}, "found box 'best'"),
        ({"missing_box": "skip"}, "found missing_box 'skip'"),
        ({"augmentation": "paper"}, "found augmentation 'paper'"),
    ],
)
def test_bad_arguments(memory_faces: Callable, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CropDataset(memory_faces(), **options)


def test_a_box_far_larger_than_the_image_is_an_error(memory_faces: Callable) -> None:
    faces = memory_faces()
    box = np.array([0.0, 0.0, 1e12, 1e12], np.float32)
    faces.faces[0] = Face("huge", faces.face(0).landmarks, box)
    crops = CropDataset(faces, 32, "provided")
    with pytest.raises(DataError, match=r"huge: found a box of .*20 times the image of 64 x 64"):
        crops[0]
