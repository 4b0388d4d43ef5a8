"""`ccdn predict` for tests: the command, detectors that find what a test says, scripted cameras."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ccdn.cli import predict
from ccdn.data.detection import CallableDetector, choice


def use_detector(monkeypatch: pytest.MonkeyPatch, find: Callable[[np.ndarray], Any]) -> None:
    """Every detector finds the boxes that `find` returns."""
    monkeypatch.setattr(choice, "_named", lambda name: CallableDetector(find))


def run(*arguments: str | Path) -> int:
    return predict.main([str(argument) for argument in arguments])


def watch_batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each call of Predictor.landmarks gets from now on."""
    counts: list[int] = []
    real = predict.Predictor.landmarks

    def landmarks(self: Any, images: Any, boxes: Any) -> Any:
        counts.append(len(images))
        return real(self, images, boxes)

    monkeypatch.setattr(predict.Predictor, "landmarks", landmarks)
    return counts


class Scripted:
    """A cv2.VideoCapture of frames at given times, and then what `end` does."""

    rate = 30.0
    times: tuple[float, ...] = ()
    stamps: tuple[float, ...] = ()  # the times that a file states, in seconds
    count = 0.0
    sizes: tuple[tuple[int, int], ...] = ((64, 60),)
    end: Callable[[], Any] = staticmethod(lambda: None)
    now = 0.0

    def __init__(self, place: Any) -> None:
        self.done = 0

    def isOpened(self) -> bool:  # noqa: N802  (OpenCV's name)
        return True

    def get(self, what: int) -> float:
        if what == cv2.CAP_PROP_POS_MSEC:
            return 1000 * self.stamps[self.done - 1]
        sides = dict(
            zip((cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT), self.sizes[0], strict=True)
        )
        properties = {cv2.CAP_PROP_FPS: self.rate, cv2.CAP_PROP_FRAME_COUNT: self.count}
        return (properties | sides)[what]

    def read(self) -> tuple[bool, np.ndarray | None]:
        if self.done == len(self.times):
            self.end()
            return False, None
        Scripted.now = self.times[self.done]
        width, height = self.sizes[self.done % len(self.sizes)]
        self.done += 1
        return True, np.full((height, width, 3), 90, np.uint8)

    def release(self) -> None:
        pass


def film_of(path: Path) -> tuple[float, float]:
    """Frames and frames a second of a film."""
    reader = cv2.VideoCapture(str(path))
    assert reader.isOpened()
    return reader.get(cv2.CAP_PROP_FRAME_COUNT), reader.get(cv2.CAP_PROP_FPS)
