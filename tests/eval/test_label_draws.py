from __future__ import annotations

import numpy as np
import pytest

from lightly_prg.errors import UserError
from lightly_prg.eval.label_draws import draw_labels, hold_out

LABELS = np.array([0] * 50 + [1] * 20 + [3] * 7 + [4])
ALL = np.arange(len(LABELS))


def counts(rows: np.ndarray) -> list[int]:
    return np.bincount(LABELS[rows], minlength=5).tolist()


def test_hold_out__is_a_tenth_of_each_class() -> None:
    kept, held = hold_out(LABELS, seed=0)
    assert counts(held) == [5, 2, 0, 1, 0]  # of seven one, of a single image none
    assert sorted([*kept, *held]) == ALL.tolist()
    assert held.tolist() == hold_out(LABELS, seed=0)[1].tolist()
    assert held.tolist() != hold_out(LABELS, seed=1)[1].tolist()


def test_hold_out__needs_a_class_of_two() -> None:
    with pytest.raises(UserError, match="No class has two"):
        hold_out(np.array([0, 1, 2]), seed=0)


def test_numbers__are_of_each_class_and_distinct() -> None:
    rows = draw_labels(LABELS, ALL[:-1], 7, seed=0, draw=0)
    assert counts(rows) == [7, 7, 0, 7, 0]
    assert len(set(rows)) == 21


def test_shares__are_of_each_class_and_at_least_one() -> None:
    assert counts(draw_labels(LABELS, ALL, 0.1, seed=0, draw=0)) == [5, 2, 0, 1, 1]
    assert counts(draw_labels(LABELS, ALL, 0.5, seed=0, draw=0)) == [25, 10, 0, 4, 1]


def test_shares__are_of_all_labels_and_within_the_pool() -> None:
    pool, _ = hold_out(LABELS, seed=0)
    rows = draw_labels(LABELS, pool, 0.5, seed=0, draw=0)
    assert counts(rows) == [25, 10, 0, 4, 1]
    assert set(rows) <= set(pool)
    assert counts(draw_labels(LABELS, pool, 0.99, seed=0, draw=0)) == counts(pool)


def test_draws__depend_on_seed_and_number_alone() -> None:
    def draw(seed: int, number: int) -> list[int]:
        rows: list[int] = draw_labels(LABELS, ALL, 0.5, seed=seed, draw=number).tolist()
        return rows

    assert draw(0, 1) == draw(0, 1)
    assert len({tuple(draw(seed, number)) for seed in range(3) for number in range(3)}) == 9


def test_too_few__is_said() -> None:
    with pytest.raises(UserError, match="8 labels of each class were asked for, and class 3 has 7"):
        draw_labels(LABELS, ALL[:-1], 8, seed=0, draw=0)
