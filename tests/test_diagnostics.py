from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightly_prg.diagnostics import round_trip, sample
from lightly_prg.features import PRGEncoder


def gaussian_velocity(tau: Tensor, x: Tensor) -> Tensor:
    """Exact velocity of the linear path for data N(0, 0.25 I) in the network's range."""
    return x * (tau - (1 - tau) * 0.25) / ((1 - tau) ** 2 * 0.25 + tau**2)


def encoder() -> PRGEncoder:
    return PRGEncoder(gaussian_velocity, input_shape=(1, 4, 4))


def test_samples__have_the_spread_of_the_data() -> None:
    images = sample(encoder(), 500, steps=20, generator=torch.Generator().manual_seed(0))
    assert images.shape == (500, 1, 4, 4)
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1
    # x ~ N(0, 0.25), shown as x / 2 + 1/2: a standard deviation of 0.25; clipping at two of them takes a little.
    assert float(images.std()) == pytest.approx(0.25, abs=0.02)


def test_samples__depend_on_the_generator_alone() -> None:
    first, second = (sample(encoder(), 2, steps=2, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, second)


def test_round_trip__goes_to_the_noise_end_and_back() -> None:
    images = torch.rand(3, 1, 4, 4)
    trip = round_trip(encoder(), images, steps=64)
    assert trip.forward.states.shape == (65, 3, 1, 4, 4)
    assert trip.forward.tau[[0, -1]].tolist() == [0, 1]
    assert trip.backward.tau[[0, -1]].tolist() == [1, 0]
    # The exact map from data to noise multiplies by 1 / 0.5.
    torch.testing.assert_close(trip.forward.states[-1], 2 * (2 * images - 1), rtol=1e-2, atol=1e-2)
    assert trip.rmse < 1e-4
