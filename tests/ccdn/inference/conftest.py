"""Fixtures for tests of films and cameras."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import cv2
import pytest
from predicting import Scripted

from ccdn.inference import sources


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what a capture gives; the clock shows the time of the last frame."""

    def script(**given: Any) -> None:
        monkeypatch.setattr(sources, "cv2", SimpleNamespace(**{**vars(cv2), "VideoCapture": kind}))
        for name, value in given.items():
            setattr(kind, name, value)

    kind = type("Capture", (Scripted,), {})
    clock = SimpleNamespace(monotonic=lambda: 7.5 + Scripted.now)
    monkeypatch.setattr(sources, "time", clock)
    return script
