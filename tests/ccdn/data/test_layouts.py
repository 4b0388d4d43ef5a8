"""Layouts: permutations mirror real mean faces, parts and normalisers fit."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path

import numpy as np
import pytest

from ccdn.data import generic_layout, layout, layout_or_none, mean_shape, read_300w
from ccdn.data.layouts import LAYOUTS, Layout

ALL = list(LAYOUTS)
MEAN_FACES = {68: "data_300W", 98: "WFLW", 29: "COFW", 19: "AFLW"}


@pytest.mark.parametrize("points", ALL)
def test_flip_is_an_involution_that_swaps_the_normalisers(points: int) -> None:
    known = layout(points)
    assert known.points == points
    assert known.flip is not None
    flip = np.array(known.flip)
    np.testing.assert_array_equal(flip[flip], np.arange(points))
    if known.ocular is not None:
        assert flip[known.ocular[0]] == known.ocular[1]
    if known.pupil is not None:
        assert set(flip[list(known.pupil[0])]) == set(known.pupil[1])


@pytest.mark.parametrize("points", ALL)
def test_parts_cover_every_point(points: int) -> None:
    assert {index for part in layout(points).parts for index in part} == set(range(points))


@pytest.mark.parametrize("points", ALL)
def test_flip_maps_the_edges_of_parts_to_edges(points: int) -> None:
    known = layout(points)
    assert known.flip is not None
    edges = {frozenset(pair) for part in known.parts for pair in itertools.pairwise(part)}
    assert {frozenset(known.flip[i] for i in edge) for edge in edges} == edges


def test_normalisers_are_those_of_the_benchmarks() -> None:
    assert layout(68).ocular == (36, 45)
    assert layout(68).pupil == (tuple(range(36, 42)), tuple(range(42, 48)))
    assert (layout(98).ocular, layout(98).pupil) == ((60, 72), ((96,), (97,)))
    assert (layout(29).ocular, layout(29).pupil) == ((8, 9), ((16,), (17,)))
    assert (layout(19).ocular, layout(19).pupil) == (None, None)


def test_unknown_and_own_layouts() -> None:
    with pytest.raises(ValueError, match=r"no layout with 5 points is known.*68 \(300W\)"):
        layout(5)
    assert layout_or_none(5) is None
    assert generic_layout(5).flip is None
    assert generic_layout(68) is layout(68)
    assert generic_layout(3, flip=[1, 0, 2]).flip == (1, 0, 2)
    assert generic_layout(19, flip=list(range(19))).name == "own"
    with pytest.raises(ValueError, match=r"must be a permutation of 0\.\.2"):
        generic_layout(3, flip=[0, 1])
    with pytest.raises(ValueError, match="mirroring twice must give the face back"):
        generic_layout(3, flip=[1, 2, 0])
    with pytest.raises(ValueError, match="at least one point, found 0"):
        Layout("empty", 0)


@pytest.mark.parametrize("points", MEAN_FACES)
def test_flip_keeps_published_mean_faces(shared: Path, points: int) -> None:
    text = (shared / "samples" / "meanfaces" / MEAN_FACES[points] / "meanface.txt").read_text()
    mean = np.array(text.split(), dtype=float).reshape(points, 2)
    flip = layout(points).flip
    assert flip is not None
    mirrored = mean[list(flip)] * [-1, 1]
    mirrored[:, 0] += (mean - mirrored)[:, 0].mean()
    # The nearest wrong point is mostly further than this; each point finds its own.
    assert np.linalg.norm(mirrored - mean, axis=1).max() < 0.035
    distance = np.linalg.norm(mirrored[:, None] - mean, axis=2)
    np.testing.assert_array_equal(distance.argmin(1), np.arange(points))


def test_flip_keeps_the_real_mean_shape(shared: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        faces = read_300w(shared / "300w", "train")
    mean = mean_shape(faces, "gt", 0.25)
    flip = layout(68).flip
    assert flip is not None
    mirrored = [1, 0] + mean[list(flip)] * [-1, 1]
    # The set looks a little more to one side than to the other; a wrong pair is much further off.
    assert np.abs(mirrored - mean).max() < 0.03
