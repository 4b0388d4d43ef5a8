"""What is drawn at random about a face: identity, expression, pose, and how it is seen.

Lengths are in head units: 1 is half the width of the face at the cheekbones (about 7 cm). The
head frame has x to the right of the picture, y down and z towards the camera; the eyes lie near y
= 0. "Image left" is the subject's right. The shape of a face is drawn from one stream and its
look from another, so that landmarks cost no picture and a change of the painting does not move a
landmark.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

VERSION = "1.7"
"""Version of the generator: any change that alters a landmark or a pixel changes it."""

_SHAPE, _LOOK = 0, 1
_BLOCK = 64


class RandomStream:
    """A random stream with the few distributions that faces need."""

    def __init__(self, seed: int, index: int, purpose: int) -> None:
        version = [int(part) for part in VERSION.split(".")]
        entropy = np.random.SeedSequence([*version, seed, index, purpose])
        self.rng = np.random.Generator(np.random.PCG64(entropy))
        # Single numbers come from blocks: one call into NumPy costs more than a hundred of them.
        self._normals: list[float] = []
        self._uniforms: list[float] = []

    def normal(self, mean: float, deviation: float) -> float:
        """Normal, cut at two deviations, so that no single draw makes a monster."""
        if not self._normals:
            self._normals = self.rng.standard_normal(_BLOCK).tolist()
        return mean + deviation * min(2.0, max(-2.0, self._normals.pop()))

    def uniform(self, low: float, high: float) -> float:
        """Uniform between the two numbers."""
        if not self._uniforms:
            self._uniforms = self.rng.random(_BLOCK).tolist()
        return low + (high - low) * self._uniforms.pop()

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.uniform(0.0, 1.0) < probability

    def below(self, count: int) -> int:
        """A whole number from 0 to count - 1."""
        return min(int(self.uniform(0.0, count)), count - 1)

    def choose(self, weights: dict[str, float]) -> str:
        """One of the keys, as often as its weight says."""
        left = self.uniform(0.0, sum(weights.values()))
        chosen = ""
        for chosen, weight in weights.items():  # noqa: B007  (used after the loop)
            left -= weight
            if left < 0:
                break
        return chosen


def shape_stream(seed: int, index: int) -> RandomStream:
    """The stream that decides where the landmarks of face `index` are."""
    return RandomStream(seed, index, _SHAPE)


def look_stream(seed: int, index: int) -> RandomStream:
    """The stream that decides what face `index` looks like."""
    return RandomStream(seed, index, _LOOK)


@dataclass(frozen=True)
class Identity:
    """The lasting proportions of a head, in head units unless said otherwise."""

    width: float  # factor on all widths
    depth: float  # factor on all depths
    crown: float  # height of the skull above the eyes
    square: float  # exponent of the jaw's outline: large is square
    pointed: float  # second exponent: large is a pointed chin
    eye_x: float  # centre of an eye
    eye_half: float  # half the length of its lids, without the corner of the tear
    eye_upper: float  # height of the open upper lid over the line of the corners
    eye_lower: float
    eye_tilt: float  # outer corner over inner corner
    eye_peak: float  # where the upper lid is highest: positive towards the nose
    iris: float  # radius
    brow_y: float  # below the eye line, so negative
    brow_inner: float
    brow_outer: float
    brow_arch: float
    brow_tilt: float
    brow_thick: float
    nose_y: float  # where the nose meets the upper lip
    nose_tip: float  # tip above that
    nose_half: float  # half the width between the wings
    nose_out: float  # how far the tip stands out
    nose_ridge: float  # height of the bridge, share of the tip's
    mouth_gap: float  # nose to mouth
    mouth_half: float
    lip_upper: float
    lip_lower: float
    cupid: float
    chin_gap: float  # mouth to chin
    chin_out: float
    cheek: float
    brow_ridge: float
    asymmetry: float


@dataclass(frozen=True)
class Expression:
    """What the muscles do; 0 is at rest."""

    open: float  # the jaw, 0..1
    part: float  # lips apart without the jaw, 0..1
    smile: float  # -0.6..1
    pucker: float  # 0..1
    raised: float  # brows, -0.7..1
    frown: float  # inner brows together and down, 0..1
    skew: float  # mouth to one side
    close_left: float  # eye at the left of the picture, 0 open .. 1 shut
    close_right: float
    gaze_x: float
    gaze_y: float


@dataclass(frozen=True)
class Pose:
    """Angles in degrees and the camera.

    Positive yaw turns the nose to the right of the picture, positive pitch lifts it, positive roll
    turns the head clockwise.
    """

    yaw: float
    pitch: float
    roll: float
    distance: float  # of the camera, head units
    extent: float  # longer side of the landmarks' box, share of the picture
    offset_x: float  # centre of that box from the centre of the picture, share of the picture
    offset_y: float


def sample_identity(draw: RandomStream) -> Identity:
    """Draw the proportions of one head.

    Means are about those of surveys of adult faces (Farkas 1994; NIOSH 2003), over half the
    breadth at the cheekbones. One head in six is a child's: large eyes, short nose and jaw, full
    cheeks; and one in five is a stout person's, wide down to the jaw.
    """
    n = draw.normal
    size = n(1.0, 0.045)
    young = draw.uniform(0.4, 1.0) if draw.chance(0.16) else 0.0
    stout = draw.uniform(0.2, 1.0) if draw.chance(0.2) else 0.0

    def grown(less: float) -> float:
        """A factor that a child's head has at full strength, 1 in adults."""
        return 1 + (less - 1) * young

    return Identity(
        width=n(1.03, 0.06) + 0.06 * stout,  # cheeks and temples are softer than a caliper shows
        depth=n(1.0, 0.06),
        crown=n(1.60, 0.08),
        square=n(2.18, 0.30) + 0.6 * stout,
        pointed=n(0.50, 0.06),
        eye_x=n(0.445, 0.026),
        eye_half=n(0.179, 0.014) * size * grown(1.06),
        eye_upper=n(0.108, 0.024) * grown(1.2),
        eye_lower=n(0.056, 0.014) * grown(1.2),
        eye_tilt=n(0.018, 0.028),
        eye_peak=n(0.0, 0.25),
        iris=n(0.084, 0.005) * grown(1.1),
        brow_y=n(-0.245, 0.045),
        brow_inner=n(0.175, 0.045),
        brow_outer=n(0.83, 0.045),
        brow_arch=n(0.065, 0.032),
        brow_tilt=n(0.01, 0.035),
        brow_thick=n(0.085, 0.028) * grown(0.75),
        nose_y=n(0.64, 0.06) * grown(0.88),
        nose_tip=n(0.15, 0.03),
        nose_half=n(0.250, 0.036),
        nose_out=n(0.36, 0.06) * grown(0.7),
        nose_ridge=n(0.45, 0.13) * grown(0.7),
        mouth_gap=n(0.31, 0.042) * grown(0.9),
        mouth_half=n(0.365, 0.038) * grown(0.88),
        lip_upper=n(0.102, 0.028),
        lip_lower=n(0.138, 0.032),
        cupid=n(0.022, 0.010),
        chin_gap=n(0.64, 0.075) * grown(0.85),
        chin_out=n(0.08, 0.035),
        cheek=n(0.10, 0.04) + 0.05 * max(young, stout),
        brow_ridge=n(0.05, 0.03) * grown(0.3),
        asymmetry=n(0.0, 0.014),
    )


def sample_expression(draw: RandomStream) -> Expression:
    """Draw one expression: mostly mild, with the strong ones that benchmarks contain."""
    mouth = draw.choose({"rest": 0.28, "smile": 0.18, "grin": 0.28, "talk": 0.15, "shout": 0.11})
    open_ = {"talk": (0.04, 0.40), "shout": (0.35, 1.0), "grin": (0.0, 0.34)}.get(mouth, (0, 0.02))
    part = {"grin": (0.2, 1.1), "talk": (0.0, 0.6), "smile": (0.0, 0.12), "shout": (0.0, 0.8)}
    parted = part.get(mouth, (0.0, 0.04))
    smile = {"smile": (0.2, 0.9), "grin": (0.3, 1.0), "rest": (-0.5, 0.25)}.get(mouth, (-0.4, 0.6))
    smiling = draw.uniform(*smile)
    lids = draw.choose({"open": 0.74, "low": 0.18, "shut": 0.08})
    shut = {"low": (0.15, 0.75), "shut": (0.8, 1.0)}.get(lids, (0.0, 0.15))
    closed = min(1.0, draw.uniform(*shut) + 0.18 * max(0.0, smiling))
    wink = draw.uniform(0.0, 0.7) if draw.chance(0.06) else 0.0
    left_winks = draw.chance(0.5)
    return Expression(
        open=draw.uniform(*open_),
        part=draw.uniform(*parted),
        smile=smiling,
        pucker=draw.uniform(0.2, 1.0) if mouth in ("rest", "talk") and draw.chance(0.2) else 0.0,
        raised=draw.uniform(0.3, 1.0) if draw.chance(0.22) else draw.normal(-0.03, 0.22),
        frown=draw.uniform(0.2, 1.0) if draw.chance(0.16) else 0.0,
        skew=draw.normal(0.0, 0.02),
        close_left=min(1.0, closed + wink * left_winks),
        close_right=min(1.0, closed + wink * (not left_winks)),
        gaze_x=draw.normal(0.0, 0.32),
        gaze_y=draw.normal(0.0, 0.18),
    )


def sample_pose(draw: RandomStream, largest: tuple[float, float, float]) -> Pose:
    """Draw pose and camera; `largest` bounds yaw, pitch and roll to either side, in degrees."""

    def angle(bound: float) -> float:
        # Most faces near the front as in photographs, the others spread over the whole range.
        if draw.chance(0.64):
            return bound * 0.5 * draw.normal(0.0, 0.5)
        return draw.uniform(-bound, bound)

    yaw, pitch, roll = (angle(bound) for bound in largest)
    return Pose(
        yaw=yaw,
        pitch=pitch,
        roll=roll,
        # From an arm's length to three metres: nearer, the nose and the mouth look large.
        distance=float(np.exp(draw.uniform(np.log(7.0), np.log(42.0)))),
        extent=draw.uniform(0.50, 0.64),
        offset_x=draw.normal(0.0, 0.03),
        offset_y=draw.normal(0.03, 0.03),
    )


def as_dict(item: Identity | Expression | Pose) -> dict[str, float]:
    """The values by name."""
    return {field.name: float(getattr(item, field.name)) for field in fields(item)}
