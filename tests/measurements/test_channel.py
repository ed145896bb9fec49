from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lightly_prg.features import PRGEncoder
from lightly_prg.measurements import channel_curve
from lightly_prg.measurements.channel import missing_bits


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_scaling_flow__returns_the_noise_scaled_back() -> None:
    # The code is twice the image in the network's range, of which the image's own is half.
    encoder = PRGEncoder(lambda tau, x: math.log(2) * x, input_shape=(1, 8, 8))
    images = torch.rand(200, 1, 8, 8, generator=seeded())
    curve = channel_curve(encoder, images, sigmas=(0.0, 0.4), solver="rk4", grey_levels=17, generator=seeded(1))
    assert curve.mse[0] == pytest.approx(0, abs=1e-9)
    assert curve.mse[1] == pytest.approx(0.1**2, rel=0.05)
    assert curve.missing_bits[0] == pytest.approx(0.5 * math.log2(2 * math.pi * math.e / 12), abs=1e-4)
    expected = 0.5 * math.log2(2 * math.pi * math.e * (0.01 * 256 + 1 / 12))
    assert curve.missing_bits[1] == pytest.approx(expected, abs=0.05)
    assert curve.standard_error is not None
    assert 0 < curve.standard_error[1] < 0.001
    assert curve.nfe == 64
    assert curve.pixels_mse is None


def test_batches__change_nothing() -> None:
    encoder = PRGEncoder(lambda tau, x: -x, input_shape=(1, 2, 2))
    images = torch.rand(5, 1, 2, 2, generator=seeded())
    whole, parts = (channel_curve(encoder, images, batch_size=size, generator=seeded(1)).mse for size in (5, 2))
    assert whole == pytest.approx(parts, rel=1e-4)


def test_pixels__have_the_error_of_the_best_linear_decoder() -> None:
    variances = torch.tensor([0.04, 0.01, 0.0, 0.0025], dtype=torch.float64)
    curve = channel_curve(
        PRGEncoder(lambda tau, x: 0 * x, input_shape=(1, 2, 2)),
        torch.rand(2, 1, 2, 2, generator=seeded()),
        sigmas=(0.0, 0.5, 1e6),
        spectrum=variances,
        generator=seeded(),
    )
    assert curve.pixels_mse is not None
    assert curve.pixels_missing_bits is not None
    scale = variances.mean()
    # By simulation: scale to variance 1, add noise, shrink each direction by its own best factor.
    x = torch.randn(200_000, 4, generator=seeded(2), dtype=torch.float64) * variances.sqrt()
    noisy = x / scale.sqrt() + 0.5 * torch.randn(x.shape, generator=seeded(3), dtype=torch.float64)
    factor = (x * noisy).mean(0) / noisy.square().mean(0)
    simulated = float((noisy * factor - x).square().mean())
    assert curve.pixels_mse == pytest.approx((0, simulated, float(scale)), rel=0.02, abs=1e-12)
    assert curve.pixels_missing_bits[1] == pytest.approx(missing_bits(simulated, 256), abs=0.02)


def test_negative_noise__is_told() -> None:
    encoder = PRGEncoder(lambda tau, x: x, input_shape=(1, 1, 1))

    def measure(images: Tensor, sigma: float) -> None:
        channel_curve(encoder, images, sigmas=(sigma,))

    for images, sigma in ((torch.rand(1, 1, 1, 1), -0.1), (torch.zeros(0, 1, 1, 1), 0.1)):
        with pytest.raises(ValueError, match="sigmas of at least 0"):
            measure(images, sigma)
