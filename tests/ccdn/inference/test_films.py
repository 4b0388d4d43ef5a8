"""The generated films and what `benchmarks/jitter.py` measures on them."""

from __future__ import annotations

import films
import numpy as np
import pytest
from films import CASES, HEIGHT, MOTIONS, NOISE, PERIOD, RATE, WIDTH, FilmFrame, film, swing
from jitter import Trace, choose, cost, row, smoothed, trace

from ccdn.data import generic_layout, landmark_box, transform_points
from ccdn.data.images import cv2
from ccdn.evaluation.metrics import nme
from ccdn.inference.predictor import Predictor
from ccdn.inference.results import Face, Faces
from ccdn.inference.smoothing import CUTOFFS, Cutoff, Cutoffs

W300 = generic_layout(68)
EVERY = 15  # frames between those that are compared: half a second


@pytest.fixture(scope="module")
def played() -> dict[str, list[FilmFrame]]:
    """A few frames of each film, half a second apart."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(films, "RATE", RATE / EVERY)
        return {case: list(film(case, 7, 4)) for case in CASES}


def test_frames_and_faces(played: dict[str, list[FilmFrame]]) -> None:
    for case, frames in played.items():
        assert [frame.time for frame in frames] == pytest.approx([0, 0.5, 1, 1.5])
        for frame in frames:
            assert (frame.image.shape, frame.image.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
            assert len(frame.faces) == (2 if case == "crossing" else 1)
            for points in frame.faces:
                assert ((points >= 0) & (points < (WIDTH, HEIGHT))).mean() > 0.95, case


@pytest.mark.parametrize("case", MOTIONS)
def test_landmarks_move_as_the_picture_does(case: str, played: dict[str, list[FilmFrame]]) -> None:
    """Where a frame is moved back by its landmarks, it shows the first one again, but for noise."""
    first, *others = played[case]
    box = landmark_box(first.faces[0])
    x0, y0, x1, y1 = np.rint(box).astype(int)
    for frame in others:
        back = _similarity(frame.faces[0], first.faces[0])
        again = transform_points(back, frame.faces[0])
        np.testing.assert_allclose(again, first.faces[0], atol=1e-6)
        image = cv2.warpAffine(frame.image, back, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR)
        apart = image[y0:y1, x0:x1].astype(float) - first.image[y0:y1, x0:x1]
        moved = frame.image[y0:y1, x0:x1].astype(float) - first.image[y0:y1, x0:x1]
        assert np.sqrt((apart**2).mean()) < 3 * NOISE
        assert case == "still" or np.sqrt((moved**2).mean()) > 4 * NOISE


def test_landmarks_lie_on_the_faces(played: dict[str, list[FilmFrame]]) -> None:
    """As a network sees them."""
    predictor = Predictor(device="cpu")
    for case, frames in played.items():
        frame = frames[-1]
        found = predictor(frame.image, [landmark_box(points) for points in frame.faces])
        assert nme(found.landmarks, np.array(frame.faces)).max() < 0.08, case


def _similarity(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The matrix (2, 3) that turns, scales and moves the first points onto the second."""
    middle, goal = start.mean(0), end.mean(0)
    one, two = ((points - points.mean(0)) @ (1, 1j) for points in (start, end))
    ratio = np.vdot(one, two) / np.vdot(one, one)
    linear = np.array([[ratio.real, -ratio.imag], [ratio.imag, ratio.real]])
    return np.column_stack([linear, goal - linear @ middle])


def test_each_frame_has_noise_of_its_own(played: dict[str, list[FilmFrame]]) -> None:
    first, second = (frame.image.astype(float) for frame in played["still"][:2])
    inside = (first > 40) & (first < 215)  # where nothing is cut off
    assert (first - second)[inside].std() == pytest.approx(NOISE * np.sqrt(2), rel=0.1)


def test_a_seed_is_a_film() -> None:
    (one,), (again,), (other,) = (list(film("pan", seed, 1)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.image, again.image)
    assert not np.array_equal(one.image, other.image)


def test_sizes_cross_and_heads_turn(played: dict[str, list[FilmFrame]]) -> None:
    def sides(frame: FilmFrame) -> list[float]:
        return [float(np.ptp(points, axis=0).max()) for points in frame.faces]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(films, "RATE", 1 / PERIOD)
        start, end = film("crossing", 7, 2)
    assert (sides(start)[1] / sides(start)[0]) / (sides(end)[1] / sides(end)[0]) > 2
    assert start.faces[0][:, 0].max() < WIDTH / 2 < start.faces[1][:, 0].min()
    turned = played["turn"]
    middles = [(frame.faces[0] - frame.faces[0].mean(0)) for frame in turned]
    assert max(np.abs(points - middles[0]).max() for points in middles) > 10  # no mere shift
    assert swing(PERIOD / 4) == pytest.approx(1)


# ---- what is measured --------------------------------------------------------------------------


def moving(lag: float = 0.0, noise: float = 0.0, frames: int = 60) -> Trace:
    """A face that swings across; what is found trails it by seconds and shakes, in pixels."""
    rng = np.random.default_rng(0)
    shape = rng.uniform(0, 100, (68, 2))
    shape[36], shape[45] = (0, 50), (100, 50)  # the eyes: 100 pixels apart
    times = [i / RATE for i in range(frames)]

    def at(time: float) -> np.ndarray:
        return shape + np.array([200 * np.sin(2 * time), 0])

    found = [at(time - lag) + rng.normal(0, noise, shape.shape) for time in times]
    return Trace([at(time) for time in times], found, [0] * frames, times)


def test_measures_by_hand() -> None:
    exact = moving()
    assert (exact.jitter(), exact.nme(), exact.share_found()) == (0, 0, 100)
    assert moving(lag=0.02, frames=95).lag() == pytest.approx(20, rel=0.02)
    # The mean length of a normal vector in the plane is sqrt(pi / 2), of two's difference sqrt(pi).
    noisy = moving(noise=1.0)
    assert noisy.nme() == pytest.approx(np.sqrt(np.pi / 2), rel=0.03)
    assert noisy.jitter() == pytest.approx(np.sqrt(np.pi), rel=0.03)
    lost = moving()
    lost.found[5] = np.full((68, 2), np.nan)
    assert lost.share_found() == pytest.approx(100 * 59 / 60)
    assert (lost.jitter(), lost.nme()) == (0, 0)
    assert np.isnan(Trace([exact.truth[0]] * 3, [exact.truth[0]] * 3, [0] * 3, [0, 1, 2]).lag())
    assert row([exact]).split()[3:] == ["100.0", "1", "of", "1"]


def test_a_trace_takes_the_face_that_lies_there(played: dict[str, list[FilmFrame]]) -> None:
    """Of several the one that overlaps most; none if all are elsewhere."""
    frames = played["crossing"][:2]

    def find(frame: FilmFrame) -> Faces:
        left, right = (points.astype(np.float32) for points in frame.faces)
        shown = [right, left] if frame.time == 0 else [right]
        faces = [Face(p, landmark_box(p), W300, id=i) for i, p in enumerate(shown, 5)]
        return Faces(faces, W300)

    left, right = trace(find, frames)
    assert (left.ids, right.ids) == ([6, None], [5, 5])
    assert (left.share_found(), right.share_found()) == (50, 100)
    assert right.nme() == pytest.approx(0, abs=1e-4)


def test_cutoffs_are_chosen_by_their_cost() -> None:
    """A face at rest that is found with noise: less smoothing than the least costs more."""
    still = moving(noise=1.0)
    still.found = [
        found - true + still.truth[0] for found, true in zip(still.found, still.truth, strict=True)
    ]
    still.truth = [still.truth[0]] * len(still.truth)
    loose = Cutoffs(*[Cutoff(50.0, 0.0)] * 3)
    assert cost([still], loose) > 2 * cost([still], CUTOFFS)
    assert smoothed(still, CUTOFFS).jitter() < 0.3 * still.jitter()
    best = choose([still], start=loose)
    assert cost([still], best) <= cost([still], CUTOFFS)
    assert best.points == Cutoff(0.5, 1.0)
