from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from lightly_prg.eval import evaluate_linear, expected_calibration_error


def test_two_bins__by_hand() -> None:
    # Of ten bins, 0.15 lies in the second (right once in two) and 0.95 in the last (right always).
    confidence, correct = [0.15, 0.15, 0.95, 0.95], [True, False, True, True]
    assert expected_calibration_error(confidence, correct, bins=10) == pytest.approx(100 * (2 * 0.35 + 2 * 0.05) / 4)


def test_honest_classifier__is_calibrated() -> None:
    draw = np.random.default_rng(0)
    confidence = draw.uniform(0.1, 1.0, 200_000)
    correct = draw.uniform(size=200_000) < confidence
    assert expected_calibration_error(confidence, correct) < 0.6
    assert expected_calibration_error(np.ones_like(confidence), correct) == pytest.approx(45.0, abs=0.5)


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_random_classifier__is_that_of_torchmetrics(bins: int) -> None:
    torch.manual_seed(0)
    probabilities, labels = torch.randn(500, 6).mul(2).softmax(1).double(), torch.randint(6, (500,))
    theirs = multiclass_calibration_error(probabilities, labels, num_classes=6, n_bins=bins, norm="l1")
    confidence, chosen = probabilities.max(1)
    ours = expected_calibration_error(confidence, chosen == labels, bins=bins)
    assert ours == pytest.approx(100 * theirs.item(), abs=1e-3)


def test_borders__belong_to_the_bin_below() -> None:
    # 0.5 and 0.3 share the lower of two bins: gaps of +0.5 and -0.3 cancel there.
    assert expected_calibration_error([0.5, 0.3], [True, False], bins=2) == pytest.approx(10.0)
    assert expected_calibration_error([0.0, 1.0], [False, True]) == 0.0


@pytest.mark.parametrize(
    ("confidence", "correct"), [([], []), ([0.5], [True, False]), ([1.5], [True]), ([float("nan")], [True])]
)
def test_bad_input__is_refused(confidence: list[float], correct: list[bool]) -> None:
    with pytest.raises(ValueError, match="onfidence"):
        expected_calibration_error(confidence, correct)


def test_linear_probe__says_how_far_it_is_off(make_blobs) -> None:
    def error(spread: float, penalty: float) -> float:
        train, test = make_blobs(60, spread=0.05), make_blobs(60, spread=spread, seed=1)
        return evaluate_linear(train, test, penalties=[penalty], device="cpu").calibration_error

    assert error(0.05, 1e-4) < 2.0  # sure and right
    assert error(3.0, 1e-4) > 20.0  # sure and often wrong
    assert error(0.05, 10.0) > 40.0  # right and, penalised that much, hardly sure
