from __future__ import annotations

import math

import numpy as np
import pytest

from lightly_prg.errors import UserError
from lightly_prg.eval.common_dimension import to_common_dimension
from lightly_prg.eval.comparison.statistics import mean_of, paired_difference, pareto_front
from lightly_prg.eval.embeddings import Embeddings


def test_mean__has_the_deviation_of_a_sample() -> None:
    assert mean_of([80.0, 82.0, 87.0]).mean == pytest.approx(83.0)
    assert mean_of([80.0, 82.0, 87.0]).deviation == pytest.approx(math.sqrt((9 + 1 + 16) / 2))
    assert mean_of([80.0]).deviation is None


def test_paired_difference__by_hand() -> None:
    # Differences 1, 2, 3: mean 2, deviation 1, standard error 1 / sqrt(3); t(0.975, 2) = 4.3027.
    difference = paired_difference({0: 91.0, 1: 72.0, 2: 53.0, 9: 1.0}, {2: 50.0, 1: 70.0, 0: 90.0})
    assert difference is not None
    assert dict(difference.by_seed) == {0: 1.0, 1: 2.0, 2: 3.0}
    assert difference.mean == pytest.approx(2.0)
    assert difference.standard_error == pytest.approx(1 / math.sqrt(3))
    assert difference.half_width == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert difference.verdict == "open"  # 2 is less than 2.48


def test_verdict__follows_the_interval() -> None:
    clear = paired_difference({0: 12.0, 1: 12.1, 2: 11.9}, {0: 10.0, 1: 10.0, 2: 10.0})
    worse = paired_difference({0: 8.0, 1: 8.1, 2: 7.9}, {0: 10.0, 1: 10.0, 2: 10.0})
    one = paired_difference({0: 12.0}, {0: 10.0})
    assert clear is not None
    assert worse is not None
    assert one is not None
    assert (clear.verdict, worse.verdict, one.verdict) == ("above", "below", "open")
    assert one.standard_error is None
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


def test_pareto_front__holds_who_is_cheaper_or_better() -> None:
    points = {
        "dear": (9.0, 90.0),
        "cheap": (1.0, 50.0),
        "worse": (9.0, 80.0),
        "middle": (3.0, 70.0),
        "lost": (4.0, 70.0),
    }
    assert pareto_front(points) == ["cheap", "middle", "dear"]
    assert pareto_front({"a": (1.0, 1.0), "b": (1.0, 1.0)}) == ["a", "b"]


def embeddings(features: np.ndarray) -> Embeddings:
    rows = len(features)
    names = tuple(map(str, range(rows)))
    return Embeddings(features.astype(np.float32), np.zeros(rows, dtype=np.int64), names, nfe=1.0, seconds=1.0)


@pytest.mark.parametrize("columns", [5, 40])
def test_common_dimension__keeps_what_lies_in_a_plane(columns: int) -> None:
    """Points of a plane in a larger space keep all their distances in two dimensions, those of another set as well."""
    generator = np.random.default_rng(0)
    plane = np.linalg.qr(generator.normal(size=(columns, 2)))[0].T
    train, other = generator.normal(size=(20, 2)) * (3.0, 1.0), generator.normal(size=(6, 2))
    low, high = to_common_dimension(embeddings(train @ plane + 7.0), embeddings(other @ plane + 7.0), dimension=2)
    assert low.embedding_dim == high.embedding_dim == 2
    for before, after in ((train, low.features), (other, high.features)):
        distances = [np.linalg.norm(points[:, None] - points[None], axis=2) for points in (before, after)]
        np.testing.assert_allclose(distances[0], distances[1], atol=1e-5)
    assert low.features.mean(axis=0) == pytest.approx([0.0, 0.0], abs=1e-6)
    variances = low.features.var(axis=0)
    assert variances[0] > variances[1]


def test_common_dimension__of_repeated_rows_is_finite() -> None:
    """Four different points span three directions; of the fourth nothing is known but that it holds no variance."""
    points = np.random.default_rng(0).normal(size=(4, 30))
    low, other = to_common_dimension(embeddings(np.repeat(points, 2, axis=0)), embeddings(points), dimension=4)
    distances = [np.linalg.norm(each[:, None] - each[None], axis=2) for each in (points, other.features)]
    np.testing.assert_allclose(distances[0], distances[1], atol=1e-5)
    assert np.abs(low.features[:, 3]).max() < 1e-5


def test_common_dimension__is_at_most_what_there_is() -> None:
    with pytest.raises(UserError, match="at most 4"):
        to_common_dimension(embeddings(np.eye(5)), dimension=5)


def test_equal_differences_of_few_seeds__are_no_certainty_beyond_one_image() -> None:
    method, reference = {0: 50.0, 1: 60.0}, {0: 49.9, 1: 59.9}
    assert paired_difference(method, reference).verdict == "above"  # type: ignore[union-attr]
    rounded = paired_difference(method, reference, step=0.1)
    assert rounded is not None
    assert rounded.standard_error == pytest.approx(0.1 / math.sqrt(6) / math.sqrt(2))
    assert rounded.verdict == "open"
    wide = {0: 50.0, 1: 70.0}  # seeds that scatter by more than an image are not touched
    assert paired_difference(wide, reference, step=0.1) == paired_difference(wide, reference)
