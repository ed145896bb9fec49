from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightly_prg.flow import time_grid


def test_by_hand():
    assert time_grid(0.0, [1.0], 4).tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert time_grid(1.0, [0.0], 2).tolist() == [1, 0.5, 0]
    # lengths 1 : 3, eight steps: 2 and 6
    assert time_grid(0.0, [0.25, 1.0], 8).tolist() == [i / 8 for i in range(9)]
    # quotas 3 * (0.5, 0.25, 0.25) = 1.5, 0.75, 0.75: one each
    assert time_grid(0.0, [0.5, 0.75, 1.0], 3).tolist() == [0, 0.5, 0.75, 1]
    # quotas 4 * (1/8, 7/8) = 0.5, 3.5
    assert time_grid(0.0, [0.125, 1.0], 4).tolist()[:2] == [0, 0.125]
    # more knots than steps: one step for each knot
    assert time_grid(0.0, [0.1, 0.2, 1.0], 1).tolist() == [0, 0.1, 0.2, 1.0]
    assert time_grid(0.0, [1.0], 2).dtype == torch.float64


grids = st.tuples(
    st.lists(st.floats(0, 1, width=32), min_size=2, max_size=8, unique=True),
    st.booleans(),
    st.integers(1, 60),
)


@settings(deadline=None, max_examples=200)
@given(grids)
def test_properties(grid):
    points, down, steps = grid
    points = sorted(points, reverse=down)
    start, knots = points[0], points[1:]
    result = time_grid(start, knots, steps).tolist()
    assert len(result) == max(steps, len(knots)) + 1
    assert (result[0], result[-1]) == (start, knots[-1])
    indices = [result.index(point) for point in points]  # every knot, exactly
    assert all((a > b) if down else (a < b) for a, b in pairwise(result))
    quotas = [steps * abs(b - a) / abs(knots[-1] - start) for a, b in pairwise(points)]
    counts = [b - a for a, b in pairwise(indices)]
    assert min(counts) >= 1
    if min(quotas) >= 1:  # then nobody needs the minimum, and largest remainders round by < 1
        assert all(abs(n - q) < 1 + 1e-9 for n, q in zip(counts, quotas, strict=True))
    for (a, b), (i, j) in zip(pairwise(points), pairwise(indices), strict=True):
        even = [a + (b - a) * k / (j - i) for k in range(j - i + 1)]
        assert result[i : j + 1] == pytest.approx(even, rel=1e-12, abs=1e-15)


def test_quadratic__by_hand():
    assert time_grid(0.0, [1.0], 4, grid="quadratic").tolist() == [0, 1 / 16, 1 / 4, 9 / 16, 1]
    assert time_grid(1.0, [0.0], 2, grid="quadratic").tolist() == [1, 0.25, 0]
    # roots 0.5 and 1: two steps to each
    assert time_grid(0.0, [0.25, 1.0], 4, grid="quadratic").tolist() == [0, 1 / 16, 1 / 4, 9 / 16, 1]


@settings(deadline=None, max_examples=200)
@given(grids)
def test_quadratic__contains_every_knot_exactly_and_is_even_in_the_root(grid):
    points, down, steps = grid
    points = sorted(points, reverse=down)
    result = time_grid(points[0], points[1:], steps, grid="quadratic").tolist()
    assert set(points) <= set(result)
    assert all((a > b) if down else (a < b) for a, b in pairwise(result))
    roots = time_grid(math.sqrt(points[0]), [math.sqrt(point) for point in points[1:]], steps)
    assert [math.sqrt(tau) for tau in result] == pytest.approx(roots.tolist(), rel=1e-12, abs=1e-15)


def test_what_is_no_grid():
    with pytest.raises(ValueError, match=r"Unknown grid 'cubic': use one of even, quadratic"):
        time_grid(0.0, [1.0], 4, grid="cubic")
    with pytest.raises(ValueError, match=r"from 0 on"):
        time_grid(-0.5, [1.0], 4, grid="quadratic")


@pytest.mark.parametrize(
    ("start", "knots"),
    [
        (0.0, []),
        (0.0, [0.0]),
        (0.0, [0.5, 0.5]),
        (0.0, [0.5, 0.4]),
        (0.5, [0.6, 0.4]),
        (0.5, [0.4, 0.6]),
        (0.0, [math.inf]),
        (math.nan, [1.0]),
    ],
)
def test_knots_must_lead_away_from_the_start(start, knots):
    with pytest.raises(ValueError, match=r"lead away from the start"):
        time_grid(start, knots, 4)


def test_steps():
    with pytest.raises(ValueError, match=r"at least 1, got 0"):
        time_grid(0.0, [1.0], 0)
    with pytest.raises(ValueError, match=r"too fine"):
        time_grid(1.0, [math.nextafter(1.0, 2.0)], 3)
