from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from lightly_prg.errors import UserError
from lightly_prg.eval.frechet import frechet_distance


def test_one_dimension__by_hand() -> None:
    first, second = np.array([[-1.0], [1.0]]), np.array([[0.0], [6.0]])
    # Means 0 and 3; unbiased variances 2 and 18: 9 + 2 + 18 - 2 sqrt(36).
    assert frechet_distance(first, second) == pytest.approx(17.0)


def test_shift_and_scale__in_closed_form() -> None:
    x = np.random.default_rng(0).normal(size=(50, 4))
    shift = np.array([1.0, 2.0, 0.0, -2.0])
    assert frechet_distance(x, x) == pytest.approx(0.0, abs=1e-8)
    assert frechet_distance(x, x + shift) == pytest.approx(9.0)
    centred = x - x.mean(0)
    assert frechet_distance(centred, 3 * centred) == pytest.approx(4.0 * np.trace(np.cov(x, rowvar=False)))


@pytest.mark.parametrize("count", [200, 6])
def test_general_covariances__equal_the_matrix_root(count: int) -> None:
    """With 6 images of 8 dimensions the covariances are singular."""
    generator = np.random.default_rng(1)
    first = generator.normal(size=(count, 8)) @ generator.normal(size=(8, 8))
    second = generator.normal(size=(count, 8)) @ generator.normal(size=(8, 8)) + 1
    one, two = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    root = np.real(sqrtm(one @ two))
    expected = np.square(first.mean(0) - second.mean(0)).sum() + np.trace(one + two - 2 * root)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-5)
    assert frechet_distance(second, first) == pytest.approx(expected, rel=1e-5)


def test_misfits__are_refused() -> None:
    with pytest.raises(UserError, match="one dimension"):
        frechet_distance(np.zeros((3, 2)), np.zeros((3, 4)))
    with pytest.raises(UserError, match="two images"):
        frechet_distance(np.zeros((1, 2)), np.zeros((3, 2)))
