"""Augmentation: what is drawn, how it spreads, and that it repeats."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ccdn.data import Augmentation, augmentation
from ccdn.data.augment import (
    OCCLUDERS,
    PRESETS,
    Change,
    Occluder,
    change_pixels,
    generator,
    sample_change,
)

COUNT = 4000


def _draws(preset: str, **fields: object) -> list[Change]:
    chosen = augmentation(preset, fields)
    return [sample_change(chosen, generator(7, 0, index)) for index in range(COUNT)]


def _column(draws: list[Change], name: str) -> np.ndarray:
    return np.array([getattr(item, name) for item in draws], dtype=float)


def test_none_changes_nothing() -> None:
    assert sample_change(augmentation("none"), generator(0, 0, 0)) == Change()
    crop = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    np.testing.assert_array_equal(change_pixels(crop.copy(), Change()), crop)


def test_newell_is_the_papers_decision() -> None:
    draws = _draws("newell")
    rotation, octaves = _column(draws, "rotation"), np.log2(_column(draws, "scale"))
    # Clipped at two deviations, a normal distribution of deviation 1 keeps 0.9594.
    assert rotation.std() == pytest.approx(30 * 0.9594, rel=0.05)
    assert (abs(rotation).max(), abs(octaves).max()) == pytest.approx((60, 0.5))
    assert octaves.std() == pytest.approx(0.25 * 0.9594, rel=0.05)
    assert abs(rotation.mean()) < 5 * 30 / math.sqrt(COUNT)
    assert _column(draws, "flip").mean() == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(COUNT))
    assert all(item.shift == (0, 0) and item.occluder is None for item in draws)
    assert abs(np.corrcoef(rotation, octaves)[0, 1]) < 5 / math.sqrt(COUNT)


def test_mmdn_is_uniform() -> None:
    draws = _draws("mmdn")
    for values, low, high in (
        (_column(draws, "rotation"), -30, 30),
        (_column(draws, "scale"), 0.9, 1.2),
        (_column(draws, "shift")[:, 0], -0.1, 0.1),
        (_column(draws, "shift")[:, 1], -0.1, 0.1),
    ):
        spread = high - low
        assert low <= values.min() < low + 0.01 * spread
        assert high - 0.01 * spread < values.max() <= high
        assert values.std() == pytest.approx(spread / math.sqrt(12), rel=0.05)


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_reach_covers_every_draw(preset: str) -> None:
    chosen = augmentation(preset)
    for item in _draws(preset)[:1000]:
        angle = math.radians(abs(item.rotation))
        half = 0.5 * (math.cos(angle) + math.sin(angle)) / item.scale
        angle = math.radians(item.rotation)
        turned = np.array(
            [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
        ) @ np.array(item.shift)
        assert 2 * (half + abs(turned).max() / item.scale) <= chosen.reach * (1 + 1e-9)
        low, high = chosen.scale_range
        assert low <= item.scale <= high


def test_draws_depend_on_seed_epoch_and_index_only() -> None:
    chosen = augmentation("strong")
    assert sample_change(chosen, generator(1, 2, 3)) == sample_change(chosen, generator(1, 2, 3))
    keys = [(seed, epoch, index) for seed in range(4) for epoch in range(4) for index in range(4)]
    assert len({sample_change(chosen, generator(*key)).rotation for key in keys}) > 60


def test_one_field_leaves_the_other_draws_alone() -> None:
    plain = _draws("newell")[:50]
    for fields in ({"occlusion": 1.0}, {"low_resolution": 1.0}, {"brightness": 0.3}):
        for one, other in zip(plain, _draws("newell", **fields)[:50], strict=True):
            assert (one.rotation, one.scale, one.flip) == (other.rotation, other.scale, other.flip)


def test_fields_are_checked() -> None:
    assert augmentation("newell", {"flip": 0}).rotation == 30
    with pytest.raises(
        ValueError, match=r"found augmentation 'paper', expected one of none, newel"
    ):
        augmentation("paper")
    with pytest.raises(ValueError, match=r"unknown augmentation field rotate, expected some of"):
        augmentation("mild", {"rotate": 3})
    for fields, message in (
        ({"rotation": -1}, "rotation: expected at least 0, found -1"),
        ({"rotation": True}, "rotation: expected a number, found True"),
        ({"flip": 1.5}, "flip: expected 0 to 1, found 1.5"),
        ({"shift": math.nan}, "shift: expected a finite number, found nan"),
        ({"shift": "much"}, "shift: expected a number, found 'much'"),
        ({"distribution": "cauchy"}, "expected one of normal, uniform; found 'cauchy'"),
        ({"scale_low": 0}, "scale_low: expected more than 0, found 0"),
        ({"scale_low": 2.0}, "expected scale_low <= scale_high"),
        ({"occlusion_size": 2}, "occlusion_size: expected 0 to 1, found 2"),
        ({"low_resolution_factor": 0.5}, "factor: expected at least 1, found 0.5"),
    ):
        with pytest.raises(ValueError, match=message):
            augmentation("none", fields)


def test_pixels_brighten_and_keep_order() -> None:
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 256, axis=0).repeat(3, axis=2)
    brighter = change_pixels(ramp.copy(), Change(brightness=0.1))
    np.testing.assert_allclose(brighter[0, 40:200, 0], np.arange(40, 200) + 25.5, atol=0.51)
    steeper = change_pixels(ramp.copy(), Change(contrast=1.0))[0, :, 0].astype(int)
    assert (np.diff(steeper) >= 0).all()
    assert steeper[160] - steeper[96] == 128
    darker = change_pixels(ramp.copy(), Change(gamma=1.0))[0, :, 0]
    np.testing.assert_allclose(darker, np.arange(256.0) ** 2 / 255, atol=0.51)
    red = change_pixels(ramp.copy(), Change(colour=(1.0, 0.0, 0.0)))
    np.testing.assert_array_equal(red[..., 1:], ramp[..., 1:])
    np.testing.assert_array_equal(red[0, :120, 0], 2 * np.arange(120))


@pytest.mark.parametrize("kind", OCCLUDERS)
def test_occluders_hide_a_part_and_leave_the_rest(kind: str) -> None:
    crop = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    shares = []
    for seed in range(6):
        drawn = Change(occluder=Occluder(kind, 0.5, 0.4, 0.5, seed, seed))
        covered = change_pixels(crop.copy(), drawn)
        np.testing.assert_array_equal(covered, change_pixels(crop.copy(), drawn))
        changed = (covered != crop).any(axis=2)
        shares.append(changed.mean())
        # Random pixels have become a surface: neighbours are alike.
        rough = np.abs(np.diff(covered.astype(int), axis=1)).mean(axis=2)
        whole = changed[:, 1:] & changed[:, :-1]
        assert rough[whole].mean() < 0.8 * rough[~whole].mean()
        rows, columns = np.nonzero(changed)
        assert np.hypot(rows - 38, columns - 48).min() < 12  # it is where it should be
    assert min(shares) > 0.02
    assert max(shares) < 0.65
    assert len(set(shares)) > 3


def test_every_kind_of_occluder_is_drawn() -> None:
    found = [item.occluder for item in _draws("strong", occlusion=1.0)]
    counts = [sum(one is not None and one.kind == kind for one in found) for kind in OCCLUDERS]
    assert sum(counts) == COUNT
    assert min(counts) > 0.7 * COUNT / len(OCCLUDERS)
    for one in found:
        assert one is not None
        assert 0.1 <= one.size <= 0.4
        assert one.size / 2 <= min(one.x, one.y)
        assert max(one.x, one.y) <= 1 - one.size / 2


@pytest.mark.parametrize("size", [8, 33])
def test_occluders_fit_small_crops(size: int) -> None:
    for index in range(60):
        drawn = sample_change(augmentation("strong", {"occlusion": 1.0}), generator(0, 0, index))
        assert change_pixels(np.zeros((size, size, 3), np.uint8), drawn).shape == (size, size, 3)


def test_resolution() -> None:
    crop = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    blurred = change_pixels(crop.copy(), Change(low_resolution=4.0))
    assert blurred.shape == crop.shape
    assert blurred.std() < 0.5 * crop.std()
    flat = np.full((64, 64, 3), 77, np.uint8)
    np.testing.assert_array_equal(change_pixels(flat.copy(), Change(low_resolution=3.3)), flat)


def test_is_geometric() -> None:
    assert not augmentation("none").is_geometric
    assert not Augmentation(flip=0.5, brightness=0.1).is_geometric
    assert all(augmentation(name).is_geometric for name in PRESETS if name != "none")
