"""The curve of the landmarks' scores, and the errors that it takes."""

from __future__ import annotations

import numpy as np
import pytest
from calibrate_scores import fit

from ccdn.inference.network import Curve, Seen
from ccdn.inference.scores import mirror_errors, spread_errors


def test_the_curve_goes_through_its_percentiles() -> None:
    rng = np.random.default_rng(0)
    faces, others = rng.uniform(0.01, 0.03, 1000), rng.uniform(0.05, 0.2, 1000)
    curve = fit(faces, others)
    assert (curve.scores(faces) >= 0.9).mean() == pytest.approx(0.99)
    assert (curve.scores(others) < 0.5).mean() == pytest.approx(0.95)
    with pytest.raises(ValueError, match=r"99 of 100 faces have errors up to 0\.19"):
        fit(others, faces)


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
