"""Landmark layouts: the meaning of points, their renumbering under mirroring, their normalisers.

"Left" and "right" are those of the image, not of the person. Indices are 0-based.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """The meaning of a set of landmarks.

    `flip` is a permutation: point `i` of a mirrored face is point `flip[i]` of the original
    one; None when it is not known. `ocular` holds the two outer eye corners, `pupil` the two
    groups of points whose means serve as pupils; None if the layout has no such points. `parts`
    are the runs of points that a drawing joins by lines; a closed run ends at its start.
    """

    name: str
    points: int
    flip: tuple[int, ...] | None = None
    ocular: tuple[int, int] | None = None
    pupil: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    parts: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if self.points < 1:
            raise ValueError(f"a layout needs at least one point, found {self.points}")
        if self.flip is None:
            return
        if sorted(self.flip) != list(range(self.points)):
            raise ValueError(
                f"layout {self.name!r}: flip must be a permutation of 0..{self.points - 1}, "
                f"found {len(self.flip)} entries {list(self.flip)}"
            )
        wrong = [i for i, j in enumerate(self.flip) if self.flip[j] != i]
        if wrong:
            raise ValueError(
                f"layout {self.name!r}: mirroring twice must give the face back, "
                f"but point {wrong[0]} becomes point {self.flip[self.flip[wrong[0]]]}"
            )


def layout(points: int) -> Layout:
    """Return the layout of a benchmark by its number of points, such as 68.

    Raises ValueError for any other number; `generic_layout` serves a user's own landmarks.
    """
    found = LAYOUTS.get(points)
    if found is None:
        known = ", ".join(f"{item.points} ({item.name})" for item in LAYOUTS.values())
        raise ValueError(f"no layout with {points} points is known, expected one of {known}")
    return found


def layout_or_none(points: int) -> Layout | None:
    """Return the layout of a benchmark with this number of points, or None."""
    return LAYOUTS.get(points)


def generic_layout(points: int, flip: Sequence[int] | None = None) -> Layout:
    """Return the benchmark layout with this number of points, else a nameless one.

    A nameless layout has no normalisers and no parts, and a mirror permutation only when `flip`
    gives it. A `flip` that is given replaces the benchmark's own: the user's points may be
    numbered otherwise. Raises ValueError when `flip` is not an involution of the points.
    """
    if flip is not None:
        return Layout("own", points, flip=tuple(int(i) for i in flip))
    return LAYOUTS.get(points) or Layout("own", points)


def _run(first: int, last: int) -> tuple[int, ...]:
    return tuple(range(first, last + 1))


def _loop(first: int, last: int) -> tuple[int, ...]:
    return (*_run(first, last), first)


def _mirror(points: int, *chains: tuple[Iterable[int], Iterable[int]]) -> tuple[int, ...]:
    """Build the permutation from pairs of chains that mirror each other; the rest stay."""
    flip = list(range(points))
    for left, right in chains:
        for i, j in zip(left, right, strict=True):
            flip[i], flip[j] = j, i
    return tuple(flip)


_W300 = Layout(
    name="300W",
    points=68,
    flip=_mirror(
        68,
        (range(0, 8), range(16, 8, -1)),  # jaw
        (range(17, 22), range(26, 21, -1)),  # brows
        (range(31, 33), range(35, 33, -1)),  # nostrils
        (range(36, 40), range(45, 41, -1)),  # eyes, upper lids from the outer to the inner corner
        (range(40, 42), range(47, 45, -1)),  # eyes, lower lids
        (range(48, 51), range(54, 51, -1)),  # outer lip, upper
        (range(58, 60), range(56, 54, -1)),  # outer lip, lower
        (range(60, 62), range(64, 62, -1)),  # inner lip, upper
        (range(67, 68), range(65, 66)),  # inner lip, lower
    ),
    ocular=(36, 45),
    pupil=(_run(36, 41), _run(42, 47)),
    parts=(
        _run(0, 16),  # jaw
        _run(17, 21),  # left brow
        _run(22, 26),  # right brow
        _run(27, 30),  # nose bridge
        _run(31, 35),  # nostrils
        _loop(36, 41),  # left eye
        _loop(42, 47),  # right eye
        _loop(48, 59),  # outer lip
        _loop(60, 67),  # inner lip
    ),
)

_WFLW = Layout(
    name="WFLW",
    points=98,
    flip=_mirror(
        98,
        (range(0, 16), range(32, 16, -1)),  # jaw
        (range(33, 38), range(46, 41, -1)),  # brows, upper edges from the outer to the inner end
        (range(38, 42), range(50, 46, -1)),  # brows, lower edges from the inner to the outer end
        (range(55, 57), range(59, 57, -1)),  # nostrils
        (range(60, 65), range(72, 67, -1)),  # eyes, upper lids
        (range(65, 68), range(75, 72, -1)),  # eyes, lower lids
        (range(76, 79), range(82, 79, -1)),  # outer lip, upper
        (range(86, 88), range(84, 82, -1)),  # outer lip, lower
        (range(88, 90), range(92, 90, -1)),  # inner lip, upper
        (range(95, 96), range(93, 94)),  # inner lip, lower
        ((96,), (97,)),  # pupils
    ),
    ocular=(60, 72),
    pupil=((96,), (97,)),
    parts=(
        _run(0, 32),  # jaw
        _loop(33, 41),  # left brow
        _loop(42, 50),  # right brow
        _run(51, 54),  # nose bridge
        _run(55, 59),  # nostrils
        _loop(60, 67),  # left eye
        _loop(68, 75),  # right eye
        _loop(76, 87),  # outer lip
        _loop(88, 95),  # inner lip
        (96,),  # left pupil
        (97,),  # right pupil
    ),
)

_COFW = Layout(
    name="COFW",
    points=29,
    flip=_mirror(
        29,
        ((0, 2, 4, 5), (1, 3, 6, 7)),  # brows: outer end, inner end, upper edge, lower edge
        ((8, 10, 12, 13, 16), (9, 11, 14, 15, 17)),  # eyes: corners, lids, pupil
        ((18, 22), (19, 23)),  # nostrils, corners of the mouth
    ),
    ocular=(8, 9),
    pupil=((16,), (17,)),
    parts=(
        (0, 4, 2, 5, 0),  # left brow
        (3, 6, 1, 7, 3),  # right brow
        (8, 12, 10, 13, 8),  # left eye
        (11, 14, 9, 15, 11),  # right eye
        (16,),  # left pupil
        (17,),  # right pupil
        (18, 20, 19, 21, 18),  # nose
        (22, 24, 23, 25, 22),  # upper lip
        (22, 26, 23, 27, 22),  # lower lip
        (28,),  # chin
    ),
)

_AFLW = Layout(
    name="AFLW",
    points=19,
    flip=_mirror(
        19,
        (range(0, 3), range(5, 2, -1)),  # brows
        (range(6, 9), range(11, 8, -1)),  # eyes
        ((12, 15), (14, 17)),  # nostrils, corners of the mouth
    ),
    parts=(
        _run(0, 2),  # left brow
        _run(3, 5),  # right brow
        _run(6, 8),  # left eye
        _run(9, 11),  # right eye
        _run(12, 14),  # nose
        _run(15, 17),  # mouth
        (18,),  # chin
    ),
)

LAYOUTS = {item.points: item for item in (_W300, _WFLW, _COFW, _AFLW)}
