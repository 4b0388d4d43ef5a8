"""The output of a run's first process: progress, metrics.jsonl, pictures, events."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ccdn.data.crop import from_unit
from ccdn.data.drawing import WHITE, contact_sheet, draw_landmarks, enlarge, write_picture
from ccdn.data.layouts import layout_or_none
from ccdn.runtime.errors import ConfigError
from ccdn.runtime.progress import Progress
from ccdn.training.metrics_log import MetricsLog, draw_curves

if TYPE_CHECKING:
    from ccdn.training.step import Sample

PICTURES_EVERY = 20.0  # seconds between two drawings of the curves and samples


class Records:
    """The records of a run in `folder`; if `active` is false, every method does nothing.

    step: optimiser steps done so far; total: those of the whole run. tensorboard: also write
    TensorBoard events (see `check_tensorboard`).
    """

    def __init__(
        self,
        folder: Path,
        step: int,
        total: int,
        batch_size: int,
        tensorboard: bool = False,
        active: bool = True,
    ) -> None:
        self.folder = folder
        self.active = active
        self._drawn = time.monotonic()
        self._events: Any = None
        if not active:
            return
        if tensorboard:
            self._events = _event_writer(folder / "events", step)
        self._log = MetricsLog(folder / "metrics.jsonl", step if step else None)
        self._progress = Progress(total, step, batch_size)

    def write(self, record: dict[str, Any]) -> None:
        """Add a record to metrics.jsonl, and its numbers to the events."""
        if not self.active:
            return
        self._log.write(record)
        if self._events is not None:
            kind = record["kind"]
            for key, value in record.items():
                if key not in ("kind", "step") and value is not None:
                    self._events.add_scalar(f"{kind}/{key}", value, record["step"])

    def sync(self) -> None:
        """Flush the records to disk."""
        if self.active:
            self._log.sync()

    def show(self, step: int, text: str) -> None:
        """Move the progress bar."""
        if self.active:
            self._progress.step(step, text)

    def say(self, text: str) -> None:
        """Print a separate line."""
        if self.active:
            self._progress.say(text)

    def draw(self, step: int, sample: Sample | None, always: bool = False) -> None:
        """Draw curves.png and samples.png from time to time."""
        if not self.active or not (always or time.monotonic() - self._drawn > PICTURES_EVERY):
            return
        draw_curves(self.folder / "metrics.jsonl", self.folder / "curves.png")
        if sample is not None:
            sheet = draw_sample(sample)
            write_picture(self.folder / "samples.png", sheet)
            if self._events is not None:
                self._events.add_image("samples", sheet, step, dataformats="HWC")
        self._drawn = time.monotonic()

    def close(self) -> None:
        """End the bar and close the files."""
        if self.active:
            self._progress.close()
            self._log.close()
            if self._events is not None:
                self._events.close()


def in_words(values: dict[str, float]) -> str:
    """The loss of a step with its terms, and NME, for the progress bar."""
    cocs = "/".join(f"{values[key]:.2g}" for key in values if key.startswith("cocs_"))
    terms = f"landmarks {values['landmarks']:.4f}" + (f", COCS {cocs}" if cocs else "")
    nme = f", NME {values['nme']:.2f} %" if "nme" in values else ""
    return f"loss {values['loss']:.4f} ({terms}){nme}"


def draw_sample(sample: Sample, count: int = 8, side: int = 192) -> np.ndarray:
    """Training crops with the truth in white and the network's landmarks in green, uint8 RGB."""
    images = sample.images[:count].permute(0, 2, 3, 1).cpu().numpy()
    size = images.shape[1]
    predicted, truth = (
        from_unit(points[:count].double().cpu().numpy(), size)
        for points in (sample.predicted, sample.truth)
    )
    layout = layout_or_none(truth.shape[1])
    cells = []
    for image, found, wanted in zip(images, predicted, truth, strict=True):
        large, points = enlarge(image, wanted, side)
        _, guessed = enlarge(image, found, side)
        drawn = draw_landmarks(large, points, layout, WHITE, size=1.5)
        cells.append(draw_landmarks(drawn, guessed, layout, size=1.5))
    return contact_sheet(cells, 4)


def check_tensorboard() -> None:
    """Raise ConfigError if the package that train.tensorboard needs is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise ConfigError(
            "train.tensorboard: the package tensorboard is not installed:"
            " pip install 'ccdn[tensorboard]', or train.tensorboard=false"
        )


def _event_writer(folder: Path, step: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    # Hides events of steps that a resumed run repeats.
    return SummaryWriter(str(folder), purge_step=step + 1)
