"""From what a detector calls a face's box to the box that networks are trained with."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Calibration(NamedTuple):
    """Four numbers that move and scale a detector's box to the box around a face's landmarks.

    right, down: how far the centre moves, in widths and heights of the detector's box; width,
    height: the landmarks' box, in the same units. They are medians over generated, upright faces:
    `python benchmarks/calibrate_detectors.py` computes them.
    """

    right: float = 0.0
    down: float = 0.0
    width: float = 1.0
    height: float = 1.0

    def apply(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (N, 4) of the detector as boxes (N, 4) around landmarks."""
        sides = boxes[:, 2:] - boxes[:, :2]
        centre = (boxes[:, 2:] + boxes[:, :2]) / 2 + sides * (self.right, self.down)
        half = sides * (self.width, self.height) / 2
        return np.concatenate([centre - half, centre + half], axis=1)
