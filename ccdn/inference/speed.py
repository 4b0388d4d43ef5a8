"""How long prediction takes: the network on a face and on a batch, and a whole picture."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np

from ccdn.inference.network import Network
from ccdn.inference.predictor import Predictor


class Time(NamedTuple):
    """Seconds by the clock and of CPU, of all threads."""

    clock: float
    cpu: float


class Speed(NamedTuple):
    """The least times of a network: on one face, for each face of a batch, and of a picture with
    the detector's search. faces: in the picture.
    """

    face: Time
    of_batch: Time
    picture: Time
    faces: int


def measure(
    networks: Mapping[str, Network],
    image: np.ndarray,
    detector: str = "auto",
    batch_size: int = 16,
    rounds: Iterable[int] = range(20),
) -> dict[str, Speed]:
    """The speed of each network with a picture, uint8 RGB (H, W, 3).

    Every round measures each of them once, so that all meet the same changes of a machine's load.
    The crops are noise: a network takes as long for any.
    """
    works: dict[str, list[Callable[[], object]]] = {}
    faces = {}
    for name, network in networks.items():
        size = network.traits.size
        crops = np.random.default_rng(0).integers(0, 256, (batch_size, 3, size, size), np.uint8)
        predictor = Predictor(network, detector=detector)
        see = network.see
        works[name] = [partial(see, crops[:1]), partial(see, crops), partial(predictor, image)]
        faces[name] = len(predictor(image))
    times: dict[str, list[list[Time]]] = {name: [] for name in works}
    for _ in rounds:
        for name, group in works.items():
            times[name].append([_time(work) for work in group])
    found = {}
    for name, measured in times.items():
        face, batch, picture = (_least(column) for column in zip(*measured, strict=True))
        of_batch = Time(batch.clock / batch_size, batch.cpu / batch_size)
        found[name] = Speed(face, of_batch, picture, faces[name])
    return found


def _time(work: Callable[[], object]) -> Time:
    clock, cpu = time.perf_counter(), time.process_time()
    work()
    return Time(time.perf_counter() - clock, time.process_time() - cpu)


def _least(times: Iterable[Time]) -> Time:
    clocks, cpus = zip(*times, strict=True)
    return Time(min(clocks), min(cpus))
