"""Crops: points and pixels move together, to a tenth of a pixel."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ccdn.data import compose, crop_image, crop_matrix, from_unit, invert, to_unit, transform_points

BOX = np.array([40.0, 30.0, 140.0, 130.0])


def _dot(where: tuple[float, float], shape: tuple[int, int], sigma: float) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]]
    value = 250 * np.exp(-((x - where[0]) ** 2 + (y - where[1]) ** 2) / (2 * sigma**2))
    return np.repeat(np.rint(value).astype(np.uint8)[..., None], 3, axis=2)


def _centre(image: np.ndarray) -> np.ndarray:
    weight = image[..., 0].astype(float)
    y, x = np.mgrid[: weight.shape[0], : weight.shape[1]]
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


@pytest.mark.parametrize("size", [20, 41, 64, 128, 333])
@pytest.mark.parametrize(
    ("rotation", "scale", "shift", "flip"),
    list(itertools.product([0.0, 33.0, -90.0], [0.7, 1.3], [(0.0, 0.0), (0.1, -0.05)], [0, 1])),
)
def test_a_dot_lands_where_its_point_does(
    size: int, rotation: float, scale: float, shift: tuple[float, float], flip: int
) -> None:
    where = (97.3, 71.6)
    matrix = crop_matrix(BOX, size, rotation, scale, shift, bool(flip))
    shrink = 100 / (size * scale)
    image = _dot(where, (160, 170), sigma=2.0 * max(1.0, shrink))
    crop = crop_image(image, matrix, size)
    moved = transform_points(matrix, np.array([where]))[0]
    assert crop.shape == (size, size, 3)
    np.testing.assert_allclose(_centre(crop), moved, atol=0.1)


@pytest.mark.parametrize("factor", [2.5, 3.0, 7.3, 16.0])
@pytest.mark.parametrize("rotation", [0.0, 25.0])
def test_a_dot_of_a_large_image_lands_right(factor: float, rotation: float) -> None:
    side = 40 * factor
    box = np.array([20.4, 31.2, 20.4 + side, 31.2 + side])
    where = (20.4 + 0.61 * side, 31.2 + 0.44 * side)
    image = _dot(where, (int(side * 1.2) + 40, int(side * 1.2) + 33), sigma=2.0 * factor)
    matrix = crop_matrix(box, 40, rotation)
    moved = transform_points(matrix, np.array([where]))[0]
    np.testing.assert_allclose(_centre(crop_image(image, matrix, 40)), moved, atol=0.1)


def test_borders_of_the_box_are_borders_of_the_crop() -> None:
    corners = np.array([[40.0, 30.0], [140.0, 130.0]])
    for size in (1, 64, 128):
        unit = to_unit(transform_points(crop_matrix(BOX, size), corners), size)
        np.testing.assert_allclose(unit, [[0, 0], [1, 1]], atol=1e-12)


def test_a_box_of_whole_pixels_copies_them() -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    matrix = crop_matrix(np.array([9.5, 4.5, 41.5, 36.5]), 32)
    np.testing.assert_array_equal(crop_image(image, matrix, 32), image[5:37, 10:42])
    flipped = crop_matrix(np.array([9.5, 4.5, 41.5, 36.5]), 32, flip=True)
    np.testing.assert_array_equal(crop_image(image, flipped, 32), image[5:37, 10:42][:, ::-1])


def test_shrinking_averages_all_pixels() -> None:
    image = np.zeros((128, 128, 3), np.uint8)
    image[::4] = 200  # stripes that every fourth row would hit or miss
    whole = crop_matrix(np.array([-0.5, -0.5, 127.5, 127.5]), 32)
    assert (crop_image(image, whole, 32) == 50).all()
    image = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    small = crop_image(image, crop_matrix(np.array([0.0, 0.0, 199.0, 199.0]), 20), 20)
    assert small[2:-2, 2:-2].std() < 12  # white noise of deviation 74 over about 100 pixels


def test_outside_the_image_is_the_border_value() -> None:
    image = np.full((40, 40, 3), 90, np.uint8)
    for size in (64, 16):
        matrix = crop_matrix(np.array([-40.5, -0.5, 39.5, 79.5]), size)
        crop = crop_image(image, matrix, size, border=7)
        half = size // 2
        assert (crop[: half - 1, half + 1 :] == 90).all()
        assert (crop[:, : half - 1] == 7).all()
        assert (crop[half + 1 :] == 7).all()
    far = crop_matrix(np.array([1000.0, 1000.0, 1400.0, 1400.0]), 16)
    assert (crop_image(image, far, 16, border=7) == 7).all()


def test_rotation_is_counter_clockwise_on_the_screen() -> None:
    matrix = crop_matrix(BOX, 100, rotation=90)
    right_and_top = np.array([[120.0, 80.0], [90.0, 50.0]])  # 30 pixels from the centre of the box
    moved = to_unit(transform_points(matrix, right_and_top), 100)
    np.testing.assert_allclose(moved, [[0.5, 0.2], [0.2, 0.5]], atol=1e-12)  # top and left


def test_scale_and_shift_have_their_direction() -> None:
    point = np.array([[115.0, 80.0]])  # a quarter of the box right of its centre
    moved = to_unit(transform_points(crop_matrix(BOX, 64, scale=1.2), point), 64)
    np.testing.assert_allclose(moved, [[0.5 + 0.25 * 1.2, 0.5]], atol=1e-12)
    moved = to_unit(transform_points(crop_matrix(BOX, 64, shift=(0.1, -0.2)), point), 64)
    np.testing.assert_allclose(moved, [[0.85, 0.3]], atol=1e-12)
    moved = to_unit(transform_points(crop_matrix(BOX, 64, shift=(0.1, 0), flip=True), point), 64)
    np.testing.assert_allclose(moved, [[0.15, 0.5]], atol=1e-12)


def test_inverse_and_composition() -> None:
    random = np.random.default_rng(3)
    points = random.uniform(-50, 500, (30, 2))
    first = crop_matrix(BOX, 77, 21, 1.1, (0.02, 0.3), True)
    second = crop_matrix(np.array([3.0, 5.0, 60.0, 62.0]), 128, -50, 0.6)
    back = transform_points(invert(first), transform_points(first, points))
    np.testing.assert_allclose(back, points, atol=1e-9)
    both = transform_points(second, transform_points(first, points))
    np.testing.assert_allclose(transform_points(compose(second, first), points), both, atol=1e-9)
    np.testing.assert_allclose(from_unit(to_unit(points, 96), 96), points, atol=1e-9)
    assert transform_points(first, points.astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize(
    ("box", "options", "message"),
    [
        ([0, 0, 0, 0], {}, "expected x0 < x1"),
        ([5, 5, 1, 1], {}, "expected x0 < x1"),
        ([0, 0, np.nan, 4], {}, "expected x0 < x1"),
        ([0, 0, 4, 5], {}, "found a box of 4.0 x 5.0, expected a square"),
        ([0, 0, 4, 4], {"size": 0}, "found a crop size of 0"),
        ([0, 0, 4, 4], {"scale": 0.0}, "found a scale of 0.0"),
    ],
)
def test_bad_arguments(box: list, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        crop_matrix(np.array(box, float), **{"size": 8, **options})


def test_a_small_face_of_a_very_wide_image() -> None:
    image = np.zeros((60, 40_000, 3), np.uint8)
    image[20:40, 39_000:39_020] = np.arange(20, dtype=np.uint8)[:, None] * 10
    matrix = crop_matrix(np.array([38_999.5, 19.5, 39_019.5, 39.5]), 20)
    assert np.array_equal(crop_image(image, matrix, 20), image[20:40, 39_000:39_020])
