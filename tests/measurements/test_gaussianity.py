from __future__ import annotations

import math

import pytest
import torch

from lightly_prg.measurements import gaussian_floor, gaussian_statistics
from lightly_prg.measurements.gaussianity import covariance_spectrum, marchenko_pastur
from lightly_prg.randomness import generator_for


def seeded(seed: int = 0) -> torch.Generator:
    # Hashed: Mersenne Twister's first numbers after a small seed are not quite random.
    return generator_for(seed, "test")


@pytest.mark.parametrize(("count", "dims"), [(400, 80), (50, 200)], ids=["many", "few"])
def test_gaussian_samples__lie_at_the_floor(count: int, dims: int) -> None:
    z = torch.randn(count, dims, generator=seeded(1))
    statistics = gaussian_statistics(z, generator=seeded(2))
    floor = gaussian_floor(count, dims, generator=seeded(3))
    for name in ("sliced_wasserstein", "spectrum_error", "mean_rms", "variance_std", "kurtosis_rms"):
        assert getattr(statistics, name) == pytest.approx(getattr(floor, name), rel=0.35), name
    assert statistics.mean_rms == pytest.approx(1 / math.sqrt(count), rel=0.35)
    assert statistics.variance_mean == pytest.approx(1, abs=0.05)


def test_scaled_and_shifted__is_told_from_gaussian() -> None:
    z = 3 + 2 * torch.randn(2000, 4, 2, generator=seeded(1))
    statistics = gaussian_statistics(z, projections=2000, generator=seeded(2))
    assert statistics.dims == 8
    assert statistics.mean_rms == pytest.approx(3, abs=0.1)
    assert statistics.variance_mean == pytest.approx(4, rel=0.1)
    assert statistics.kurtosis_mean == pytest.approx(0, abs=0.15)
    # W2^2 of a direction is (mean)^2 + (std - 1)^2; the square of the mean along a random one averages to 9.
    assert statistics.sliced_wasserstein == pytest.approx(math.sqrt(10), rel=0.03)


def test_uniform_numbers__have_their_kurtosis() -> None:
    z = math.sqrt(12) * (torch.rand(4000, 5, generator=seeded()) - 0.5)
    statistics = gaussian_statistics(z, generator=seeded(1))
    assert statistics.kurtosis_mean == pytest.approx(-1.2, abs=0.05)
    assert statistics.kurtosis_rms == pytest.approx(1.2, abs=0.05)


def test_spectrum__is_that_of_the_covariance() -> None:
    scales = torch.tensor([3.0, 2.0, 1.0, 0.5])
    z = torch.randn(5000, 4, generator=seeded(), dtype=torch.float64) * scales
    torch.testing.assert_close(covariance_spectrum(z), scales.double().square(), rtol=0.1, atol=0)
    exact = torch.linalg.eigvalsh(torch.cov(z.T)).flip(0)
    torch.testing.assert_close(covariance_spectrum(z), exact)
    # The same with fewer vectors than dimensions, the missing eigenvalues being 0.
    few = z[:3]
    exact = torch.linalg.eigvalsh(torch.cov(few.T)).flip(0)
    torch.testing.assert_close(covariance_spectrum(few), exact, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("count", "dims"), [(1000, 100), (200, 200), (100, 400)])
def test_marchenko_pastur__is_what_gaussian_samples_have(count: int, dims: int) -> None:
    expected = marchenko_pastur(count, dims)
    ratio = dims / count
    assert float(expected.max()) < (1 + math.sqrt(ratio)) ** 2
    assert float(expected.mean()) == pytest.approx(1, abs=0.02)
    assert int((expected == 0).sum()) == max(0, dims - count)
    seen = covariance_spectrum(torch.randn(count + 1, dims, generator=seeded(), dtype=torch.float64))
    assert float((seen - expected).square().mean().sqrt()) < 0.05 * float(expected.max())


def test_constant_dimensions__are_counted_and_do_no_harm() -> None:
    z = torch.randn(50, 3, generator=seeded())
    z[:, 1] = 7.0
    statistics = gaussian_statistics(z, generator=seeded())
    assert statistics.constant_dims == 1
    assert statistics.kurtosis_rms is not None
    assert math.isfinite(statistics.kurtosis_rms)
    assert gaussian_statistics(torch.ones(5, 2), generator=seeded()).kurtosis_mean is None


def test_many_dimensions__are_shown_by_64_eigenvalues() -> None:
    statistics = gaussian_statistics(torch.randn(10, 300, generator=seeded()), generator=seeded())
    assert len(statistics.spectrum) == len(statistics.spectrum_reference) == 64
    assert statistics.spectrum[-1] == 0


@pytest.mark.parametrize("z", [torch.zeros(1, 3), torch.zeros(4), torch.zeros(4, 0)])
def test_too_little__is_told(z: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="At least 2 vectors"):
        gaussian_statistics(z)
