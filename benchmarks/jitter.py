"""How steady landmarks are in films, on generated ones whose landmarks are known exactly.

    python benchmarks/jitter.py [--seeds 1 2] [--frames 240] [--weights FILE] [CASE ...]
    python benchmarks/jitter.py --choose

For each case of benchmarks/films.py three ways are compared: each frame is searched and read on its
own, as `predictor(frame)` does; faces are followed, and not smoothed; faces are followed and
smoothed, as `ccdn predict` does. Columns, means over all landmarks, frames and seeds:

- jitter: the change of the error from frame to frame, % of the distance of the outer eye corners
- NME: the error itself, % of the same
- lag: by how many milliseconds the landmarks trail the truth, as least squares see it
- found: frames in which the face was found, %; ids: how many ids the faces had, at best one each

--choose prints the cutoffs of ccdn/inference/smoothing.py, from films of another seed: of the
powers of two that it tries, those with the least sum of jitter and NME, on average over the films.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from films import CASES, FilmFrame, film

from ccdn.data import landmark_box
from ccdn.data.boxes import overlap
from ccdn.data.images import cv2
from ccdn.inference.predictor import Predictor
from ccdn.inference.results import Faces
from ccdn.inference.smoothing import CUTOFFS, Cutoff, Cutoffs, FaceSmoother
from ccdn.inference.tracking import Tracker

SEEDS = (101, 102, 103)
CHOICE_CASES, CHOICE_SEED, CHOICE_FRAMES = ("still", "pan", "zoom", "roll", "turn"), 201, 100
LEASTS, SLOPES = 2.0 ** np.arange(-1, 3), 2.0 ** np.arange(9)  # Hz, and Hz a unit a second
EYES = (36, 45)  # the outer corners, of 68 points
ENOUGH = 0.4  # overlap of boxes from which on a face is found


@dataclass
class Trace:
    """One face of a film: its true landmarks in each frame, those found (NaN where it was not), the
    ids that it had, and the times.
    """

    truth: list[np.ndarray] = field(default_factory=list)
    found: list[np.ndarray] = field(default_factory=list)
    ids: list[int | None] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def jitter(self) -> float:
        """The change of the error from frame to frame, % of the distance of the eyes."""
        change = np.linalg.norm(np.diff(self._errors(), axis=0), axis=-1)
        return 100 * float(np.nanmean(change / self._eyes()[1:, None]))

    def nme(self) -> float:
        """The error, % of the distance of the eyes."""
        return 100 * float(
            np.nanmean(np.linalg.norm(self._errors(), axis=-1) / self._eyes()[:, None])
        )

    def lag(self) -> float:
        """By how many milliseconds the landmarks trail the truth; NaN if nothing moves."""
        speed = np.gradient(np.array(self.truth), np.array(self.times), axis=0)
        error = self._errors()
        error = error - np.nanmean(error, axis=0)
        known = np.isfinite(error)
        moved = float((speed[known] ** 2).sum())
        lag = -1e3 * float((error[known] * speed[known]).sum()) / max(moved, 1e-9)
        return lag if moved > len(error) else np.nan

    def share_found(self) -> float:
        """Frames in which the face was found, %."""
        return 100 * float(np.mean([np.isfinite(points).all() for points in self.found]))

    def _errors(self) -> np.ndarray:
        return np.array(self.found, np.float64) - np.array(self.truth)

    def _eyes(self) -> np.ndarray:
        truth = np.array(self.truth)
        return np.linalg.norm(truth[:, EYES[0]] - truth[:, EYES[1]], axis=-1)


def trace(find: Callable[[FilmFrame], Faces], frames: Iterable[FilmFrame]) -> list[Trace]:
    """What is found of each face of a film."""
    traces: list[Trace] = []
    for frame in frames:
        traces = traces or [Trace() for _ in frame.faces]
        faces = find(frame)
        for own, truth in zip(traces, frame.faces, strict=True):
            box = landmark_box(truth)
            places = [landmark_box(face.landmarks) for face in faces]
            shares = [overlap(place, box) for place in places]
            best = int(np.argmax(shares)) if shares and max(shares) >= ENOUGH else None
            own.truth.append(truth)
            own.times.append(frame.time)
            own.found.append(np.full_like(truth, np.nan) if best is None else faces[best].landmarks)
            own.ids.append(None if best is None else faces[best].id)
    return traces


def ways(predictor: Predictor) -> dict[str, Callable[[FilmFrame], Faces]]:
    """The ways that are compared, for one film."""
    followed, smoothed = Tracker(predictor, smooth=False), Tracker(predictor)
    return {
        "each frame on its own": lambda frame: predictor.predict([frame.image])[0],
        "followed": lambda frame: followed(frame.image, frame.time),
        "smoothed": lambda frame: smoothed(frame.image, frame.time),
    }


def row(traces: Sequence[Trace]) -> str:
    """The columns of a table, in the order of this module's text."""
    lag = [value for own in traces if np.isfinite(value := own.lag())]
    ids = sum(len({number for number in own.ids if number is not None}) for own in traces)
    cells = (
        f"{np.mean([own.jitter() for own in traces]):6.2f}",
        f"{np.mean([own.nme() for own in traces]):6.2f}",
        f"{np.mean(lag):6.1f}" if lag else "      ",
        f"{np.mean([own.share_found() for own in traces]):6.1f}",
        f"{ids:3d} of {len(traces)}" if ids else "",
    )
    return "  ".join(cells)


def choose(films: Sequence[Trace], start: Cutoffs = CUTOFFS) -> Cutoffs:
    """The best cutoffs for these faces, found in turn, twice; each step is printed."""
    best, names = start, [found.name for found in fields(Cutoffs)]
    tried = [Cutoff(least, slope) for least in LEASTS.tolist() for slope in SLOPES.tolist()]
    print(f"in use: {cost(films, best):.4f}")
    for name in (*names, *names):
        best = min((replace(best, **{name: cutoff}) for cutoff in tried), key=partial(cost, films))
        print(f"{name}: {getattr(best, name)}: {cost(films, best):.4f}", flush=True)
    return best


def cost(films: Sequence[Trace], cutoffs: Cutoffs) -> float:
    """Mean jitter plus mean NME of the smoothed landmarks."""
    again = [smoothed(own, cutoffs) for own in films]
    return float(np.mean([own.jitter() + own.nme() for own in again]))


def smoothed(own: Trace, cutoffs: Cutoffs) -> Trace:
    """The same face with smoothed landmarks; it has to be found in every frame."""
    smoother = FaceSmoother(own.found[0], cutoffs)
    steps = np.diff(own.times)
    found = [own.found[0], *(smoother(p, s) for p, s in zip(own.found[1:], steps, strict=True))]
    return Trace(own.truth, found, own.ids, own.times)


def main() -> None:
    """Print the table."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description="How steady landmarks are in generated films.")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--frames", type=int, default=240)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("cases", nargs="*", default=CASES, metavar="CASE")
    args = parser.parse_args()
    predictor = Predictor(args.weights, device="cpu")
    if args.choose:
        films: list[Trace] = []
        for case in CHOICE_CASES:
            follow = ways(predictor)["followed"]
            films += trace(follow, film(case, CHOICE_SEED, CHOICE_FRAMES))
        choose(films)
        return
    print(f"{'':32}  jitter     NME     lag   found  ids")
    for case in args.cases:
        traces: dict[str, list[Trace]] = {}
        for seed in args.seeds:
            frames = list(film(case, seed, args.frames))
            for way, find in ways(predictor).items():
                traces.setdefault(way, []).extend(trace(find, frames))
        for way, found in traces.items():
            print(f"{case:8}  {way:22}  {row(found)}", flush=True)


if __name__ == "__main__":
    main()
