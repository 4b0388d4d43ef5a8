"""Steadies the landmarks of one face over time: the One-Euro filter of Casiez, Roussel and Vogel,
"1€ Filter: A Simple Speed-based Low-pass Filter for Noisy Input in Interactive Systems", CHI 2012.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

SPEED_CUTOFF = 1.0  # Hz: of the low-pass filter that estimates speeds, as in the paper


@dataclass(frozen=True)
class Cutoff:
    """The cutoff frequency of a One-Euro filter: `least` Hz at rest, and `slope` Hz more for each
    unit a second of speed.
    """

    least: float
    slope: float


@dataclass(frozen=True)
class Cutoffs:
    """Of a face's filters: of its points relative to the face, of its place, and of its size and
    roll. The unit of length is the longer side of the box around the first landmarks, moved along
    with the face.
    """

    points: Cutoff
    place: Cutoff
    pose: Cutoff


# By `python benchmarks/jitter.py --choose`, on generated films alone.
CUTOFFS = Cutoffs(points=Cutoff(0.5, 16.0), place=Cutoff(0.5, 128.0), pose=Cutoff(1.0, 32.0))


class OneEuro:
    """Filters a series of vectors (..., D): the faster a vector moves, the less it is smoothed."""

    def __init__(self, cutoff: Cutoff) -> None:
        self.cutoff = cutoff
        self.value: np.ndarray | None = None
        self.speed: np.ndarray = np.zeros(0)  # (..., D) a second, smoothed
        self._last: np.ndarray = np.zeros(0)  # what was given last

    def __call__(self, given: np.ndarray, step: float, unit: float = 1.0) -> np.ndarray:
        """The smoothed vectors, (..., D) float64, `step` seconds after the last call.

        unit: the length in which speeds count. The first call returns what it is given.
        """
        given = np.asarray(given, np.float64)
        if self.value is None:
            self.value, self.speed = given, np.zeros_like(given)
        else:
            raw = (given - self._last) / step
            self.speed = self.speed + _share(SPEED_CUTOFF, step) * (raw - self.speed)
            speeds = np.linalg.norm(self.speed, axis=-1, keepdims=True) / unit
            share = _share(self.cutoff.least + self.cutoff.slope * speeds, step)
            self.value = self.value + share * (given - self.value)
        self._last = given
        return self.value


def _share(cutoff: float | np.ndarray, step: float) -> np.ndarray:
    """Of the new value in the smoothed one, for a low-pass filter's cutoff in Hz."""
    turn = 2 * math.pi * step * np.asarray(cutoff)
    return turn / (turn + 1)


class FaceSmoother:
    """Smooths the landmarks (L, 2) of one face.

    A similarity takes the first landmarks to the present ones: its place, and its size and roll,
    have a filter each, and so have the points in its coordinates. So a face that moves as a whole
    keeps its shape steady, and eyes and mouth are not delayed by the head.
    """

    def __init__(self, landmarks: np.ndarray, cutoffs: Cutoffs = CUTOFFS) -> None:
        points = _complex(landmarks)
        self._first = points - points.mean()
        self.unit = max(float(np.ptp(landmarks, axis=0).max()), 1e-6)  # pixels, of the first frame
        self._first = self._first / self.unit
        self._place, self._pose = OneEuro(cutoffs.place), OneEuro(cutoffs.pose)
        self._points = OneEuro(cutoffs.points)
        self._angle = 0.0
        self.landmarks = self._smoothed(landmarks, 0.0)

    def __call__(self, landmarks: np.ndarray, step: float) -> np.ndarray:
        """The smoothed landmarks, (L, 2) float64, `step` seconds after the last ones."""
        self.landmarks = self._smoothed(landmarks, step)
        return self.landmarks

    @property
    def size(self) -> float:
        """The longer side of the box around the first landmarks, in pixels, as large as now."""
        assert self._pose.value is not None
        return math.exp(self._pose.value[0])

    @property
    def angle(self) -> float:
        """By how much the face has turned clockwise since the first landmarks, in degrees."""
        assert self._pose.value is not None
        return math.degrees(self._pose.value[1])

    @property
    def velocity(self) -> np.ndarray:
        """Of the face's middle, (2,) in pixels a second."""
        return self._place.speed

    def _smoothed(self, landmarks: np.ndarray, step: float) -> np.ndarray:
        points = _complex(landmarks)
        middle = points.mean()
        ratio = _fit(self._first, points - middle)
        # The nearest of the angles that differ by whole turns.
        turn = math.remainder(math.atan2(ratio.imag, ratio.real) - self._angle, 2 * math.pi)
        self._angle += turn
        size = max(abs(ratio), 1e-6)
        place = self._place(np.array([middle.real, middle.imag]), step, size)
        log_size, angle = self._pose(np.array([math.log(size), self._angle]), step)
        shape = self._points(_pairs((points - middle) / ratio if ratio else self._first), step)
        turned = _complex(shape) * np.exp(log_size + 1j * angle)
        return _pairs(turned) + place


def _fit(first: np.ndarray, second: np.ndarray) -> complex:
    """The number whose product with the first points is nearest to the second; both centred."""
    return complex(np.vdot(first, second) / max(float(np.vdot(first, first).real), 1e-12))


def _complex(points: np.ndarray) -> np.ndarray:
    points = np.asarray(points, np.float64)
    return points[:, 0] + 1j * points[:, 1]


def _pairs(points: np.ndarray) -> np.ndarray:
    return np.stack([points.real, points.imag], axis=1)
