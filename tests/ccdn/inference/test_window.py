"""`ccdn predict --show`: windows, and machines that have none."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from predicting import film_of, run, use_detector

from ccdn.config import ConfigError
from ccdn.inference import window


@pytest.fixture(autouse=True)
def one_face(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cascade does not find made-up faces."""
    found = [np.array([10.0, 10, 50, 50])]
    use_detector(monkeypatch, lambda image: found)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A screen: what a window answers, and what was shown."""
    answers: dict[str, Any] = {"key": lambda: -1, "visible": lambda: 1.0, "shown": []}

    def seen(name: str, image: np.ndarray) -> None:
        answers["shown"].append(name)

    fake = SimpleNamespace(**vars(cv2))
    fake.imshow, fake.waitKey = seen, lambda wait: answers["key"]()
    fake.getWindowProperty = lambda name, which: answers["visible"]()
    fake.destroyAllWindows = lambda: None
    monkeypatch.setattr(window, "cv2", fake)
    monkeypatch.setattr(window, "check_window", lambda: None)
    return answers


def closed() -> float:
    raise cv2.error("no such window")


@pytest.mark.parametrize(
    ("answer", "second", "frames"),
    [
        ("key", lambda: ord("q"), 2),
        ("visible", lambda: 0.0, 2),
        ("visible", closed, 2),
        ("visible", lambda: 1.0, 5),
    ],
)
def test_a_window_that_is_closed(
    answer: str,
    second: Callable[[], float],
    frames: int,
    weights: Path,
    tmp_path: Path,
    scripted: Callable[..., None],
    screen: dict[str, Any],
) -> None:
    first = screen[answer]
    screen[answer] = lambda: (first if len(screen["shown"]) == 1 else second)()
    scripted(times=tuple(i / 30 for i in range(9)))
    arguments = ["--show", "--frames", "5", "--weights", weights, "--out", tmp_path]
    assert run("camera:0", *arguments) == 0
    assert screen["shown"] == ["camera_0"] * frames
    assert len(json.loads((tmp_path / "camera_0.json").read_text())["frames"]) == frames
    assert film_of(tmp_path / "camera_0_landmarks.mp4")[0] == frames


def test_a_window_that_never_tells_whether_it_is_seen(screen: dict[str, Any]) -> None:
    screen["visible"] = lambda: -1.0
    shown = window.Window("a \udcff")
    assert [shown.show(np.zeros((4, 4, 3), np.uint8)) for _ in range(3)] == [True] * 3
    assert screen["shown"][0] == "a \\udcff"


HEADLESS = """
class error(Exception): pass
def namedWindow(name): raise error("{text}")
"""
NO_WINDOWS = "The function is not implemented. Rebuild the library with Windows, GTK+ 2.x or Cocoa"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems name no display")
@pytest.mark.parametrize(
    ("module", "display", "reason"),
    [
        (HEADLESS.format(text=NO_WINDOWS), None, "this OpenCV has no windows"),
        (HEADLESS.format(text="Can't initialize GTK backend"), None, "no display"),
        ("import os; os.abort()", None, "no display"),
        ("import os; os.abort()", ":77", "the display DISPLAY=:77 cannot be reached"),
        ("import no_such_module", None, "ModuleNotFoundError: No module named 'no_such_module'"),
        ("import time; time.sleep(60)", ":77", "the display DISPLAY=:77 did not answer in 0.5 s"),
    ],
)
def test_no_window_can_be_shown(
    module: str,
    display: str | None,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of OpenCV without windows, without a display, and with one that cannot be reached."""
    (tmp_path / "cv2.py").write_text(module)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    if display is not None:
        monkeypatch.setenv("DISPLAY", display)
    if "sleep" in module:
        monkeypatch.setattr(window, "SECONDS", 0.5)
    with pytest.raises(ConfigError) as raised:
        window.check_window()
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_window_can_be_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = "namedWindow = waitKey = lambda *_: 0\ndestroyAllWindows = lambda: None\n"
    (tmp_path / "cv2.py").write_text(f"class error(Exception): pass\n{parts}")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    window.check_window()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems name no display")
def test_show_without_a_display(
    weights: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the OpenCV that is installed: one line before anything is written."""
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    out = tmp_path / "out"
    assert run("camera:0", "--show", "--weights", weights, "--out", out) == 2
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("ccdn predict: --show: no window can be shown here: ")
    assert not out.exists()
    (tmp_path / "a.png").touch()
    assert run(tmp_path / "a.png", "--show", "--weights", weights, "--out", out) == 2
    assert "--show goes with a video or camera, found pictures only" in capfd.readouterr().err
