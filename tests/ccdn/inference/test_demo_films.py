"""Frames of a film that `ccdn demo` is sent: faces are followed, the last films are remembered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from demo_server import FACES, Answer, ask, encoded, error_of, photograph, served

from ccdn.data.detection import Detections, detector
from ccdn.inference.demo.app import MOST_FILMS
from ccdn.inference.predictor import Predictor
from ccdn.inference.tracking import DETECT_EVERY


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served(Predictor()) as found:
        yield found


class Counting:
    """A detector that counts its searches."""

    name = "counting"

    def __init__(self) -> None:
        self.searches = 0
        self._own = detector("auto")

    def detect(self, images: Sequence[np.ndarray]) -> list[Detections]:
        self.searches += 1
        return self._own.detect(images)


def frames(count: int, index: int = 0) -> list[bytes]:
    """A generated face at rest; each frame has its own noise."""
    rng = np.random.default_rng(index)
    still = FACES.image(index).astype(np.float64)
    noisy = (still + rng.normal(0, 12, still.shape) for _ in range(count))
    return [encoded(np.clip(frame, 0, 255).astype(np.uint8)) for frame in noisy]


def filmed(address: str, film: str, time: float | str, content: bytes) -> Answer:
    return ask(address, f"/faces?film={film}&time={time}", content)


def test_a_film_is_followed() -> None:
    """One search for all frames instead of one for each, one id, and landmarks that shake less."""
    finder = Counting()
    with served(Predictor(detector=finder)) as address:
        shots = frames(DETECT_EVERY)
        followed = [filmed(address, "a", i / 25, shot).json for i, shot in enumerate(shots)]
        assert finder.searches == 1
        alone = [ask(address, "/faces", shot).json for shot in shots]
        assert finder.searches == 1 + len(shots)
    assert [[face["id"] for face in answer["faces"]] for answer in followed] == [[0]] * len(shots)
    assert not any("id" in face for answer in alone for face in answer["faces"])
    assert all(error_of(answer["faces"][0]["landmarks"]) < 0.05 for answer in followed)

    def shake(answers: list[Any]) -> float:
        points = np.array([answer["faces"][0]["landmarks"] for answer in answers])
        return float(np.abs(np.diff(points, axis=0)).mean())

    assert shake(followed) < 0.5 * shake(alone)


def test_two_films_at_once(address: str) -> None:
    """Each has its own faces and its own clock."""
    shots = [frames(3, index) for index in (0, 1)]
    for i in range(3):
        for index, film in enumerate(("two-a", "two-b")):
            answer = filmed(address, film, 100 * index + i / 25, shots[index][i]).json
            (face,) = answer["faces"]
            assert face["id"] == 0
            assert error_of(face["landmarks"], index) < 0.05


def test_only_the_last_films_are_remembered(address: str) -> None:
    """A film that was dropped begins anew, so that an earlier time is no fault in it."""
    blank = encoded(np.zeros((64, 64, 3), np.uint8))
    for i in range(MOST_FILMS):
        assert filmed(address, f"many-{i}", 5, blank).code == 200
    assert filmed(address, "many-0", 6, blank).code == 200  # now many-1 waits longest
    assert filmed(address, "one-more", 5, blank).code == 200
    assert filmed(address, "many-0", 5, blank).code == 409
    assert filmed(address, "many-1", 4, blank).code == 200


@pytest.mark.parametrize(
    ("film", "time"), [("", 1), ("a" * 37, 1), ("A", 1), ("a", ""), ("a", "nan"), ("a", "-1")]
)
def test_a_film_has_a_name_and_times(address: str, film: str, time: float | str) -> None:
    answer = filmed(address, film, time, photograph())
    assert answer.code == 400
    assert answer.json["error"].startswith("film and time: expected a name of at most 36 digits")


def test_time_does_not_go_back(address: str) -> None:
    assert filmed(address, "back", 2, photograph()).code == 200
    answer = filmed(address, "back", 2, photograph())
    assert (answer.code, answer.json) == (
        409,
        {"error": "time of a frame: expected more than 2, found 2"},
    )
    bad = filmed(address, "back", 3, b"a letter")
    assert bad.code == 422
    assert filmed(address, "back", 3, photograph()).json["faces"][0]["id"] == 0
