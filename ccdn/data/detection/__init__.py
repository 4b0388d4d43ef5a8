"""Face detectors behind one interface: pictures in, boxes with scores out.

`detector(name)` chooses one. interface.py says what a detector is; search.py gives one that
searches upright faces at one scale more scales and turned pictures; calibration.py says how its
boxes lie about a face's landmarks.
"""

from ccdn.data.detection.calibration import Calibration
from ccdn.data.detection.choice import NAMES, default_name, detector
from ccdn.data.detection.interface import CallableDetector, Detections, Detector

__all__ = [
    "NAMES",
    "Calibration",
    "CallableDetector",
    "Detections",
    "Detector",
    "default_name",
    "detector",
]
