"""The One-Euro filter and the smoothing of a face, on series whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ccdn.inference.smoothing import Cutoff, FaceSmoother, OneEuro
from ccdn.synthetic_faces import SyntheticFaces

STEP = 1 / 30


def casiez(values: list[float], rate: float, least: float, slope: float) -> list[float]:
    """The algorithm as the paper lists it, for numbers at a constant rate."""

    def alpha(cutoff: float) -> float:
        tau = 1.0 / (2 * math.pi * cutoff)
        return 1.0 / (1.0 + tau * rate)

    found, last, speed = values[0], values[0], 0.0
    series = [found]
    for value in values[1:]:
        speed = alpha(1.0) * (value - last) * rate + (1 - alpha(1.0)) * speed
        share = alpha(least + slope * abs(speed))
        found = share * value + (1 - share) * found
        last = value
        series.append(found)
    return series


def test_the_filter_is_the_paper_s() -> None:
    rng = np.random.default_rng(0)
    values = np.cumsum(rng.normal(0, 1, 50)).tolist()
    own = OneEuro(Cutoff(1.5, 0.3))
    found = [float(own(np.array([value]), STEP)[0]) for value in values]
    assert found == pytest.approx(casiez(values, 30, 1.5, 0.3))


def test_speed_is_a_vector_s_and_counts_in_units() -> None:
    """A turned path is smoothed as the path is, and so is one ten times as large in its unit."""
    path = np.cumsum(np.random.default_rng(1).normal(0, 1, (40, 1, 2)), axis=0)
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    plain, turned, large = (OneEuro(Cutoff(1.0, 0.5)) for _ in range(3))
    for point in path:
        found = plain(point, STEP)
        assert turned(point @ turn, STEP) == pytest.approx(found @ turn)
        assert large(10 * point, STEP, unit=10.0) == pytest.approx(10 * found)


def test_frame_times_decide() -> None:
    """After a pause a new value counts for more."""
    slow, fast = OneEuro(Cutoff(1.0, 0.0)), OneEuro(Cutoff(1.0, 0.0))
    for own, step in ((slow, 0.5), (fast, 0.01)):
        own(np.array([0.0]), step)
    assert slow(np.array([1.0]), 0.5)[0] > 0.7
    assert fast(np.array([1.0]), 0.01)[0] < 0.07


def moved(landmarks: np.ndarray, time: float) -> np.ndarray:
    """A face that moves across, grows and turns at once, and more than a whole turn in the end."""
    angle, size = 1.5 * time, 1.3**time
    turn = size * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return (landmarks - 80) @ turn + (100 + 60 * time, 90 - 20 * time)


def test_a_face_that_moves_as_a_whole_keeps_its_shape() -> None:
    """Noise is reduced to a part, and the face trails by less than a frame, through whole turns."""
    landmarks = SyntheticFaces(1, seed=3).face(0).landmarks.astype(np.float64)
    rng = np.random.default_rng(0)
    times = np.arange(0, 5, STEP)
    truth = [moved(landmarks, time) for time in times]
    noisy = [points + rng.normal(0, 0.5, points.shape) for points in truth]
    smoother = FaceSmoother(noisy[0])
    found = [noisy[0], *(smoother(points, STEP) for points in noisy[1:])]
    assert smoother.angle == pytest.approx(math.degrees(1.5 * times[-1]), abs=2)
    assert smoother.size == pytest.approx(1.3 ** times[-1] * smoother.unit, rel=0.02)

    def jitter(series: list[np.ndarray]) -> float:
        return float(np.abs(np.diff(np.array(series) - np.array(truth), axis=0)).mean())

    assert jitter(found) < 0.5 * jitter(noisy)
    late = np.linalg.norm(found[-1] - truth[-1], axis=1).mean()
    step = np.linalg.norm(truth[-1] - truth[-2], axis=1).mean()
    assert late < step


def test_a_still_face_rests() -> None:
    landmarks = SyntheticFaces(1, seed=4).face(0).landmarks
    rng = np.random.default_rng(0)
    smoother = FaceSmoother(landmarks)
    noisy = [landmarks + rng.normal(0, 0.5, landmarks.shape) for _ in range(90)]
    found = [smoother(points, STEP) for points in noisy]
    noise = np.abs(np.diff(noisy[30:], axis=0)).mean()
    assert np.abs(np.diff(found[30:], axis=0)).mean() < 0.25 * noise
    assert np.abs(np.mean(found[30:], axis=0) - landmarks).max() < 0.5


def test_one_point_as_a_face() -> None:
    """An untrained network may put all landmarks on one point."""
    smoother = FaceSmoother(np.full((68, 2), 7.0))
    assert np.isfinite(smoother(np.full((68, 2), 9.0), STEP)).all()
    assert np.isfinite(smoother(np.arange(136.0).reshape(68, 2), STEP)).all()
