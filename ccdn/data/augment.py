"""Random changes of a training face: their kinds, their strengths, and how they are drawn."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from ccdn.data.images import cv2
from ccdn.data.occlusion import KINDS, Placement, paint_occluder
from ccdn.runtime.validation import NotNegative, Number, Positive, Probability, check


@dataclass(frozen=True)
class Augmentation:
    """How strongly faces are changed; zeros change nothing.

    `distribution` is normal or uniform, for rotation, scale and shift. Rotations are degrees:
    `rotation` is the standard deviation, clipped at `rotation_limit` (uniform: the half-width).
    `scale` is the standard deviation of log2 of the magnification, clipped at `scale_limit`
    (uniform: the magnification lies between `scale_low` and `scale_high`). `shift` is in
    fractions of the crop, in x and y, clipped at `shift_limit` (uniform: the half-width).
    `flip`, `low_resolution` and `occlusion` are probabilities. `brightness` (of the full
    range), `contrast`, `gamma` and `colour` (log2 of a gain, of each channel for colour) are
    standard deviations, clipped at twice their value. `low_resolution` shrinks the crop by up to
    `low_resolution_factor` and enlarges it again; `occlusion` paints one thing over the crop, a
    rectangle or one of `ccdn.data.occlusion`, about a quarter of `occlusion_size` to all of it in
    size, as a share of the crop; an arm continues to the border.
    """

    distribution: Literal["normal", "uniform"] = "normal"
    rotation: NotNegative = 0.0
    rotation_limit: NotNegative = 60.0
    scale: NotNegative = 0.0
    scale_limit: NotNegative = 0.5
    scale_low: Positive = 1.0
    scale_high: Positive = 1.0
    shift: NotNegative = 0.0
    shift_limit: NotNegative = 0.15
    flip: Probability = 0.0
    brightness: NotNegative = 0.0
    contrast: NotNegative = 0.0
    gamma: NotNegative = 0.0
    colour: NotNegative = 0.0
    low_resolution: Probability = 0.0
    low_resolution_factor: Annotated[Number, Field(ge=1)] = 4.0
    occlusion: Probability = 0.0
    occlusion_size: Probability = 0.4

    def __post_init__(self) -> None:
        check(self)
        if self.scale_low > self.scale_high:
            raise ValueError(
                f"found scale_low {self.scale_low} and scale_high {self.scale_high}, "
                "expected scale_low <= scale_high"
            )

    @property
    def is_geometric(self) -> bool:
        """Whether a draw may move pixels in any way but mirroring."""
        if self.distribution == "uniform":
            return (
                self.rotation > 0 or self.shift > 0 or (self.scale_low, self.scale_high) != (1, 1)
            )
        return self.rotation > 0 or self.shift > 0 or self.scale > 0

    @property
    def scale_range(self) -> tuple[float, float]:
        """The least and the greatest magnification that can be drawn."""
        if self.distribution == "uniform":
            return self.scale_low, self.scale_high
        limit = self.scale_limit if self.scale > 0 else 0.0
        return 2.0**-limit, 2.0**limit

    @property
    def reach(self) -> float:
        """The side of the region that any draw may need, over the side of the box."""
        turn = self.rotation if self.distribution == "uniform" else self.rotation_limit
        angle = math.radians(min(turn if self.rotation > 0 else 0.0, 45.0))
        shift = self.shift if self.distribution == "uniform" else self.shift_limit
        shift = shift if self.shift > 0 else 0.0
        return (math.cos(angle) + math.sin(angle)) * (1 + 2 * shift) / self.scale_range[0]


PRESETS = {
    "none": Augmentation(),
    # The paper says "Gaussian" without values; these are the stacked hourglass's.
    "newell": Augmentation(rotation=30.0, scale=0.25, flip=0.5),
    "mmdn": Augmentation(
        distribution="uniform", rotation=30.0, scale_low=0.9, scale_high=1.2, shift=0.1, flip=0.5
    ),
    "mild": Augmentation(
        rotation=10.0,
        rotation_limit=30.0,
        scale=0.08,
        scale_limit=0.25,
        shift=0.04,
        shift_limit=0.1,
        flip=0.5,
        brightness=0.08,
        contrast=0.2,
        gamma=0.2,
    ),
    "strong": Augmentation(
        rotation=30.0,
        scale=0.25,
        shift=0.05,
        flip=0.5,
        brightness=0.1,
        contrast=0.3,
        gamma=0.3,
        colour=0.15,
        low_resolution=0.2,
        occlusion=0.3,
    ),
}


def augmentation(preset: str, fields: Mapping[str, object] | None = None) -> Augmentation:
    """Return a preset (none, newell, mmdn, mild, strong) with single fields replaced.

    Raises ValueError for an unknown preset or field.
    """
    if preset not in PRESETS:
        raise ValueError(f"found augmentation {preset!r}, expected one of {', '.join(PRESETS)}")
    fields = dict(fields or {})
    known = [item.name for item in dataclasses.fields(Augmentation)]
    unknown = sorted(set(fields) - set(known))
    if unknown:
        raise ValueError(
            f"unknown augmentation field {', '.join(unknown)}, expected some of {', '.join(known)}"
        )
    return dataclasses.replace(PRESETS[preset], **fields)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Occluder:
    """A thing painted over a crop: its middle and its size as shares of the crop, the way an arm
    would come from in radians, and the seed of its own details.
    """

    kind: str  # rectangle, or a key of `ccdn.data.occlusion.KINDS`
    x: float
    y: float
    size: float
    turn: float
    seed: int


@dataclass(frozen=True)
class Change:
    """One sampled change: arguments of `crop_matrix`, and what is done to the crop's pixels."""

    rotation: float = 0.0
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    flip: bool = False
    brightness: float = 0.0
    contrast: float = 0.0
    gamma: float = 0.0
    colour: tuple[float, float, float] = (0.0, 0.0, 0.0)
    low_resolution: float = 1.0
    occluder: Occluder | None = None


def generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random numbers of one face in one epoch; they depend only on the arguments."""
    mask = (1 << 64) - 1
    key = np.array([seed & mask, ((epoch << 32) ^ index) & mask], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def sample_change(chosen: Augmentation, random: np.random.Generator) -> Change:
    """Sample one change.

    It always consumes the same number of random numbers, so changing one field leaves the draws of
    the others unchanged.
    """
    normal = random.standard_normal(10)
    uniform = random.random(14)
    if chosen.distribution == "uniform":
        spread = 2.0 * uniform[:4] - 1.0
        rotation = chosen.rotation * spread[0]
        scale = chosen.scale_low + (chosen.scale_high - chosen.scale_low) * uniform[1]
        shift = chosen.shift * spread[2:4]
    else:
        rotation = _clip(chosen.rotation * normal[0], chosen.rotation_limit)
        scale = 2.0 ** _clip(chosen.scale * normal[1], chosen.scale_limit)
        shift = np.clip(chosen.shift * normal[2:4], -chosen.shift_limit, chosen.shift_limit)
    jitter = np.clip(normal[4:10], -2.0, 2.0)
    occluder = None
    if uniform[6] < chosen.occlusion:
        kind = OCCLUDERS[int(uniform[8] * len(OCCLUDERS))]
        size = float(chosen.occlusion_size * (0.25 + 0.75 * uniform[7]))
        x, y = (float(size / 2 + value * (1 - size)) for value in uniform[9:11])
        turn, own = float(2 * math.pi * uniform[11]), int(2**32 * uniform[12])
        occluder = Occluder(kind, x, y, size, turn, own)
    shrink = 1.0
    if uniform[5] < chosen.low_resolution:
        # The same fraction of draws falls into each octave of shrinking.
        shrink = chosen.low_resolution_factor ** float(random.random())
    else:
        random.random()
    return Change(
        rotation=float(rotation),
        scale=float(scale),
        shift=(float(shift[0]), float(shift[1])),
        flip=bool(uniform[4] < chosen.flip),
        brightness=float(chosen.brightness * jitter[0]),
        contrast=float(chosen.contrast * jitter[1]),
        gamma=float(chosen.gamma * jitter[2]),
        colour=(
            float(chosen.colour * jitter[3]),
            float(chosen.colour * jitter[4]),
            float(chosen.colour * jitter[5]),
        ),
        low_resolution=shrink,
        occluder=occluder,
    )


def change_pixels(crop: np.ndarray, drawn: Change) -> np.ndarray:
    """Apply the pixel part of a change to a crop (S, S, 3) uint8; may write into it.

    In turn: resolution, then one table from old to new values (gamma about [0, 1], contrast about
    mid-grey with the channel's gain, brightness), then the occluder.
    """
    size = crop.shape[0]
    if drawn.low_resolution > 1.0:
        small = max(4, round(size / drawn.low_resolution))
        crop = cv2.resize(crop, (small, small), interpolation=cv2.INTER_AREA)
        crop = cv2.resize(crop, (size, size), interpolation=cv2.INTER_LINEAR)
    if drawn.brightness or drawn.contrast or drawn.gamma or any(drawn.colour):
        crop = cv2.LUT(crop, _table(drawn))
    if drawn.occluder is not None:
        _occlude(crop, drawn.occluder)
    return crop


def _occlude(crop: np.ndarray, thing: Occluder) -> None:
    """Paint a thing over a crop, in place."""
    side = crop.shape[0]
    random = np.random.Generator(np.random.Philox(key=thing.seed))
    middle = np.array([thing.x, thing.y]) * side - 0.5
    if thing.kind == "rectangle":
        half = 0.5 * thing.size * side * random.uniform(0.5, 1.0, 2)
        x0, y0, x1, y1 = (
            np.rint(np.concatenate([middle - half, middle + half])).astype(int).tolist()
        )
        crop[max(y0, 0) : y1 + 1, max(x0, 0) : x1 + 1] = random.integers(0, 256, 3)
        return
    # A hand is about a unit wide, and things are up to two units long.
    away = np.array([math.cos(thing.turn), math.sin(thing.turn)])
    place = Placement(middle, away, max(0.7 * thing.size * side, 1.0))
    skin = tuple(
        (random.uniform(0.3, 1.0) * _SKIN * random.normal(1, 0.04, 3)).clip(0, 255).tolist()
    )
    paint_occluder(crop, thing.kind, place, skin, random, random.uniform(0.6, 1.1))


# The rectangle hides without looking like anything; it is as frequent as each of the others.
OCCLUDERS = ("rectangle", *KINDS)
_SKIN = np.array([236.0, 192.0, 168.0])


def _table(drawn: Change) -> np.ndarray:
    """Old to new value, uint8 (1, 256, 3) or (1, 256) when the channels agree."""
    values = _RAMP ** (2.0**drawn.gamma) if drawn.gamma else _RAMP
    centred = (values - 0.5) * 2.0**drawn.contrast + 0.5 + drawn.brightness
    if any(drawn.colour):
        centred = centred[:, None] * 2.0 ** np.array(drawn.colour)
    table = np.clip(255.0 * centred + 0.5, 0, 255).astype(np.uint8)
    return table[None]


def _clip(value: float, limit: float) -> float:
    return min(max(value, -limit), limit)


_RAMP = np.arange(256) / 255.0
