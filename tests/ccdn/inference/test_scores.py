"""The curve of the landmarks' scores, and the errors that it takes."""

from __future__ import annotations

import numpy as np
import pytest
from calibrate_scores import fit

from ccdn.inference.network import Curve, Seen
from ccdn.inference.scores import combined, mirror_errors, spread_errors


def test_the_fit_is_the_odds_of_two_normal_distributions() -> None:
    """Whose logarithms of errors and whose detector's scores differ in their means alone."""
    rng = np.random.default_rng(0)
    count, width, lack = 20_000, 0.4, 0.15

    def drawn(error: float, score: float) -> np.ndarray:
        errors = np.exp(rng.normal(np.log(error), width, count))
        return np.column_stack([rng.normal(score, lack, count), errors])

    faces, others = drawn(0.02, 0.8), drawn(0.06, 0.6)
    curve, detection = fit(faces, others)
    power = np.log(0.06 / 0.02) / width**2
    assert curve.power == pytest.approx(power, rel=0.05)
    assert detection == pytest.approx(0.2 / lack**2, rel=0.05)
    # Half way between both lies a score of 0.5.
    middle = combined(0.7, float(curve.scores(np.array(np.sqrt(0.02 * 0.06)))), detection)
    assert middle == pytest.approx(0.5, abs=0.02)
    scores = [combined(k[:, 0], curve.scores(k[:, 1]), detection) for k in (faces, others)]
    assert (1 - scores[0]).mean() == pytest.approx(scores[1].mean(), abs=1e-6)
    # With a weight that is given the curve adapts.
    other, given = fit(faces, others, 0.0)
    assert given == 0
    assert other.power == pytest.approx(power, rel=0.05)
    assert other.scores(np.array(np.sqrt(0.02 * 0.06))) == pytest.approx(0.5, abs=0.02)


def test_what_can_be_told_apart_has_a_fit_too() -> None:
    faces, others = np.array([[0.9, 0.01], [0.8, 0.02]]), np.array([[0.5, 0.1], [0.6, 0.2]])
    curve, detection = fit(faces, others)
    assert np.isfinite([*curve, detection]).all()
    assert (combined(faces[:, 0], curve.scores(faces[:, 1]), detection) > 0.9).all()
    assert (combined(others[:, 0], curve.scores(others[:, 1]), detection) < 0.1).all()


def test_both_scores_in_one() -> None:
    assert combined(1.0, 0.3) == pytest.approx(0.3)
    assert combined(0.5, 0.8, weight=np.log(16)) == pytest.approx(0.5)  # odds 4 by exp(log(16) / 2)
    assert [combined(0.5, landmark) for landmark in (0.0, 1.0)] == [0, 1]
    np.testing.assert_allclose(
        combined(np.array([1, 0.0]), np.array([0.5, 0.5]), 1.0), [0.5, 1 / (1 + np.e)]
    )


def test_scores_by_hand() -> None:
    np.testing.assert_allclose(Curve(0.1, 2.0).scores(np.array([0, 0.1, 0.3])), [1, 0.5, 0.1])


def test_errors_by_hand() -> None:
    """In sides of the box: 0.4 wide, 0.5 high."""
    landmarks = np.array([[[0.1, 0.2], [0.5, 0.7]]])
    moved = landmarks + np.array([0.03, 0.04])
    seen = Seen(landmarks, moved, np.array([[0.01, 0.03]]))
    np.testing.assert_allclose(mirror_errors(seen), [0.1], rtol=1e-5)
    np.testing.assert_allclose(spread_errors(seen), [0.04], rtol=1e-5)
    with pytest.raises(ValueError, match="landmarks of mirrored crops"):
        mirror_errors(Seen(landmarks, None, None))
    with pytest.raises(ValueError, match="a network with spread"):
        spread_errors(Seen(landmarks, moved, None))
