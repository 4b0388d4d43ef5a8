"""A window that shows a stream, if there is a screen."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np

from ccdn.data.images import cv2
from ccdn.runtime.errors import ConfigError

SECONDS = 30.0  # for the window of another process to open
# OpenCV's windows crash if no display can be reached, so another process tries first.
_TRIAL = """
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
except ImportError:
    pass
import sys
import cv2
try:
    cv2.namedWindow("ccdn")
    cv2.waitKey(1)
    cv2.destroyAllWindows()
except cv2.error as error:
    sys.exit(f"cv2.error: {error}")
"""


def check_window() -> None:
    """Raise ConfigError, with the reason, if no window can be shown."""
    try:
        trial = subprocess.run(
            [sys.executable, "-c", _TRIAL],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(f"--show: {_display()} did not answer in {SECONDS:g} s") from None
    if trial.returncode == 0:
        return
    if "not implemented" in trial.stderr:
        reason = "this OpenCV has no windows; opencv-python has, opencv-python-headless has not"
    elif "Error: " in trial.stderr:  # Python's: no module of that name
        reason = trial.stderr.strip().splitlines()[-1]
    else:
        reason = f"{_display()} cannot be reached" if _display() else "no display"
    raise ConfigError(f"--show: no window can be shown here: {reason}")


def _display() -> str:
    """A description of the display that the environment names; empty if it names none."""
    for variable in ("WAYLAND_DISPLAY", "DISPLAY"):
        if os.environ.get(variable):
            return f"the display {variable}={os.environ[variable]}"
    return "" if sys.platform.startswith("linux") else "the display"


class Window:
    """Frames in a window, until the user presses q or closes it."""

    def __init__(self, name: str) -> None:
        self.name = name.encode("utf-8", "backslashreplace").decode()
        self._seen = False

    def show(self, image: np.ndarray) -> bool:
        """Show a picture, uint8 RGB; returns whether the user asked for the next one."""
        cv2.imshow(self.name, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        if cv2.waitKey(1) & 0xFF == ord("q"):
            return False
        try:
            visible = cv2.getWindowProperty(self.name, cv2.WND_PROP_VISIBLE) >= 1
        except cv2.error:  # some OpenCV backends do not know a closed window
            visible = False
        self._seen = self._seen or visible  # some never report it
        return visible or not self._seen

    def close(self) -> None:
        """Close the window."""
        cv2.destroyAllWindows()
