from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from lightly_prg.features import PRGEncoder
from lightly_prg.measurements import round_trip_curve


def gaussian_velocity(tau: Tensor, x: Tensor) -> Tensor:
    """Exact velocity of the linear path for data N(0, 0.25 I) in the network's range."""
    return x * (tau - (1 - tau) * 0.25) / ((1 - tau) ** 2 * 0.25 + tau**2)


IMAGES = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun2", 2)])
def test_error__falls_with_the_order_of_the_solver(solver: str, order: int) -> None:
    points = round_trip_curve(PRGEncoder(gaussian_velocity, input_shape=(1, 4, 4)), IMAGES, solver)
    assert [point.nfe for point in points] == [8, 16, 32, 64]
    assert [point.steps for point in points] == [8 // order, 16 // order, 32 // order, 64 // order]
    errors = [point.rmse for point in points]
    # There and back, an error of even order partly cancels.
    slopes = [math.log2(coarse / fine) for coarse, fine in pairwise(errors[1:])]  # type: ignore[operator]
    assert all(order - 0.3 < slope < order + 1.5 for slope in slopes)


def test_adaptive_solver__has_tolerances_and_counts_what_it_took() -> None:
    points = round_trip_curve(
        PRGEncoder(gaussian_velocity, input_shape=(1, 4, 4)), IMAGES, "dopri5", tolerances=(1e-2, 1e-5)
    )
    loose, tight = points
    assert (loose.steps, loose.tolerance) == (None, 1e-2)
    assert loose.nfe < tight.nfe
    assert loose.rmse is not None
    assert tight.rmse is not None
    assert tight.rmse < min(1e-3, loose.rmse)


def test_error__is_in_units_of_the_image() -> None:
    # Euler's one step of dx/dtau = -x takes x to 0; the way back stays there.
    encoder = PRGEncoder(lambda tau, x: -x, input_shape=(1, 1, 1), mean=0.5, std=0.5)
    (point,) = round_trip_curve(encoder, torch.full((1, 1, 1, 1), 0.9), "euler", budgets=(1,))
    assert point.rmse == pytest.approx(0.4)


def test_solve_that_breaks_down__is_a_point_without_error() -> None:
    encoder = PRGEncoder(lambda tau, x: x / (0.5 - tau), input_shape=(1, 4, 4))
    (point,) = round_trip_curve(encoder, IMAGES, "euler", budgets=(2,))
    assert point.rmse is None
    assert point.nfe > 0
