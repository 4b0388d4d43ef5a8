"""Colours and styles of a person, and the light, drawn from the stream of looks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ccdn.data.shapes import Colour, shade
from ccdn.synthetic_faces.parameters import RandomStream

_SKIN: list[Colour] = [
    (240, 205, 188),
    (228, 184, 160),
    (206, 156, 126),
    (172, 118, 88),
    (128, 82, 60),
    (92, 60, 46),
]
_HAIR: dict[str, tuple[float, Colour]] = {
    "black": (0.30, (30, 25, 25)),
    "dark": (0.27, (54, 38, 30)),
    "brown": (0.20, (92, 62, 42)),
    "blond": (0.13, (186, 150, 98)),
    "grey": (0.06, (150, 148, 146)),
    "red": (0.04, (134, 62, 32)),
}
_IRIS: dict[str, tuple[float, Colour]] = {
    "brown": (0.6, (70, 44, 28)),
    "hazel": (0.15, (104, 86, 50)),
    "blue": (0.15, (86, 120, 150)),
    "green": (0.1, (88, 112, 84)),
}


@dataclass(frozen=True)
class Look:
    """Colours and styles that painting and scene share."""

    skin: Colour
    hair: Colour
    lips: Colour
    iris: Colour
    teeth: Colour
    shadow: Colour  # of the make-up around the eyes
    style: str  # bald, short, parted, fringe or long
    beard: str  # none, stubble, moustache, goatee or full
    stubble: float  # density of stubble
    age: float  # 0..1: how strongly folds show
    makeup: float  # 0..1
    brow: float  # 0..1: how much the brows differ from the skin
    hairline: float  # height at the middle of the forehead
    volume: float  # thickness of the hair, head units
    strands: float  # how much single strands stand out
    glint: float  # where lamps mirror in the eyes, share of the iris
    glints: float  # how bright they are, 0..1
    sclera: float  # how much of the white of the eye is white, 0..1
    liner: float  # 0..1: how dark and thick the rims of the lids look
    crease: float  # 0..1: how deep the fold over the lid is; 0 in eyes without one
    socket: float  # 0..1: how dark the eye's hollow is
    vermilion: float  # 0..1: how much the lips differ from the skin
    moist: float  # 0..1: how much the lips shine
    bite: float  # how low the upper teeth reach, head units
    folds: float  # 0..1: how strongly the face creases where it moves
    mottle: float  # 0..1: unevenness of the skin
    neck: float  # half its width, head units
    ear_out: float  # how far the ears stand out, share of the usual
    ear_size: float
    ear_red: float  # 0..1: how much light shines through them
    cap: Colour | None  # of a hat


@dataclass(frozen=True)
class Light:
    """A lamp far away, a weaker one from elsewhere, and light from all around."""

    towards: np.ndarray  # (3,) unit vector to the lamp, camera frame
    colour: np.ndarray  # (3,)
    fill_towards: np.ndarray
    fill: float
    ambient: np.ndarray  # (3,)
    gloss: float
    shadow: float  # 0..1, darkness of cast shadows
    hard: bool  # a strong lamp and little light from elsewhere

    @property
    def level(self) -> float:
        """Brightness of a surface that looks at the camera."""
        return self.on(np.array([0.0, 0.0, 1.0]))

    def on(self, normal: np.ndarray) -> float:
        """Brightness of a surface with this normal (3,), a unit vector in the camera frame."""
        lamp = self.colour * max(float(self.towards @ normal), 0.0)
        return float(np.mean(self.ambient + lamp)) + 0.7 * self.fill


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """Between two colours, `share` of the second."""
    rest = 1 - share
    return (
        rest * first[0] + share * second[0],
        rest * first[1] + share * second[1],
        rest * first[2] + share * second[2],
    )


def any_colour(draw: RandomStream, low: float = 10, high: float = 240) -> Colour:
    """A colour of things: most are dull, some are not."""
    grey = draw.uniform(low, high)
    spread = 36.0 if draw.chance(0.25) else 13.0
    r, g, b = (min(255.0, max(0.0, grey + draw.normal(0, spread))) for _ in range(3))
    return (r, g, b)


def sample_look(draw: RandomStream) -> Look:
    """Draw colours and styles."""
    tone = draw.uniform(0, 1) ** 1.15 * (len(_SKIN) - 1)
    low = min(int(tone), len(_SKIN) - 2)
    r, g, b = mix(_SKIN[low], _SKIN[low + 1], tone - low)
    skin = shade(
        (r * draw.normal(1, 0.03), g * draw.normal(1, 0.025), b * draw.normal(1, 0.035)), 1.0
    )
    hair_name = draw.choose({name: weight for name, (weight, _) in _HAIR.items()})
    if tone > 2.4 and draw.chance(0.93):
        hair_name = "black"
    iris_name = draw.choose({name: weight for name, (weight, _) in _IRIS.items()})
    feminine = draw.chance(0.5)
    makeup = draw.uniform(0.1, 1.0) if feminine and draw.chance(0.6) else 0.0
    rosy: Colour = (196, 84, 88) if makeup < 0.5 else (178, 30, 56)
    if feminine:
        style = draw.choose({"short": 0.10, "parted": 0.2, "fringe": 0.25, "long": 0.45})
        beard = "none"
    else:
        style = draw.choose({"bald": 0.16, "short": 0.56, "parted": 0.20, "long": 0.08})
        kinds = {"none": 0.45, "stubble": 0.25, "moustache": 0.08, "goatee": 0.1, "full": 0.12}
        beard = draw.choose(kinds)
    vermilion = draw.uniform(0.05, 1.0)
    thick = {"bald": 0.0, "short": 0.05, "parted": 0.09, "fringe": 0.10, "long": 0.10}[style]
    return Look(
        skin=skin,
        hair=shade(_HAIR[hair_name][1], draw.uniform(0.75, 1.3)),
        lips=mix(shade(skin, draw.uniform(0.66, 0.95)), rosy, vermilion * (0.5 + 0.3 * makeup)),
        iris=shade(_IRIS["brown" if tone > 2.6 else iris_name][1], draw.uniform(0.8, 1.2)),
        teeth=shade((232, 226, 212), draw.uniform(0.72, 1.05)),
        shadow=(draw.uniform(50, 140), draw.uniform(40, 90), draw.uniform(60, 140)),
        style=style,
        beard=beard,
        stubble=draw.uniform(0.12, 0.5),
        age=draw.uniform(0, 1) ** 2,
        makeup=makeup,
        brow=draw.uniform(0.25, 0.95),
        hairline=draw.normal(-0.90, 0.08) - (0.15 if style == "bald" else 0.0),
        volume=thick * draw.uniform(0.6, 1.6),
        strands=draw.uniform(0.08, 0.26),
        glint=draw.uniform(-0.4, 0.4),
        glints=draw.uniform(0.2, 1.0) if draw.chance(0.75) else 0.0,
        sclera=draw.uniform(0.25, 1.0),
        liner=min(1.0, draw.uniform(0.0, 1.0) ** 1.5 * 0.8 + 0.4 * makeup),
        crease=draw.uniform(0.0, 1.0),
        socket=draw.uniform(0.0, 1.0) ** 1.5,
        vermilion=vermilion,
        moist=draw.uniform(0.0, 1.0),
        bite=draw.uniform(0.09, 0.15),
        folds=draw.uniform(0.0, 1.0),
        mottle=draw.uniform(0.2, 1.0),
        neck=draw.normal(0.70, 0.10),
        ear_out=draw.uniform(0.4, 1.6),
        ear_size=draw.uniform(0.85, 1.15),
        ear_red=draw.uniform(0.0, 0.25),
        cap=any_colour(draw, 10, 210) if draw.chance(0.08) else None,
    )


def sample_light(draw: RandomStream, skin: Colour) -> Light:
    """Draw the light on a face with this skin: mostly soft and from the front, sometimes hard and
    from a side.
    """

    def towards(azimuth: float, elevation: float) -> np.ndarray:
        a, e = np.deg2rad(azimuth), np.deg2rad(elevation)
        return np.array([np.sin(a) * np.cos(e), -np.sin(e), np.cos(a) * np.cos(e)])

    hard = draw.chance(0.3)
    azimuth = draw.normal(0.0, 42.0 if hard else 28.0)
    lamp = towards(azimuth, draw.uniform(-10.0, 60.0))
    power = draw.uniform(0.75, 1.15) if hard else draw.uniform(0.3, 0.75)
    ambient = draw.uniform(0.15, 0.35) if hard else draw.uniform(0.35, 0.65)
    fill = draw.uniform(0.0, 0.3)
    warm = draw.normal(0.04, 0.10)
    cast = np.array([1.0 + draw.normal(0, 0.05) for _ in range(3)])
    # Cameras expose for the scene: scale to about the same brightness from every direction, and
    # half of the way to the same brightness of every skin.
    reached = ambient + power * max(float(lamp[2]), 0.2) + 0.7 * fill
    gain = draw.uniform(0.75, 1.15) / reached * (150 / float(np.mean(skin))) ** 0.5
    return Light(
        towards=lamp,
        colour=np.array([1 + warm, 1.0, 1 - warm]) * power * gain,
        fill_towards=towards(-azimuth + draw.normal(0, 30.0), draw.uniform(-30.0, 30.0)),
        fill=fill * gain,
        ambient=cast * ambient * gain,
        gloss=draw.uniform(0.0, 1.0) ** 2 * 0.5,
        shadow=draw.uniform(0.3, 0.9) if hard else draw.uniform(0.0, 0.5),
        hard=hard,
    )
