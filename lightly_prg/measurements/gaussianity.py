"""How Gaussian a set of vectors is: moments, covariance spectrum, sliced Wasserstein distance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_SPECTRUM = 64


@dataclass(frozen=True)
class GaussianStatistics:
    """How N vectors of D numbers compare with N(0, I).

    None of these is at its ideal for a finite sample of N(0, I) either: compare with `gaussian_floor`.

    Attributes:
        num_images: N.
        dims: D.
        constant_dims: Dimensions that never change; the kurtosis leaves them out.
        mean_rms: Root mean square of the D means; ideally 0.
        variance_mean: Mean of the D variances; ideally 1.
        variance_std: Their standard deviation; ideally 0.
        kurtosis_mean: Mean excess kurtosis of the dimensions; ideally 0. None where all are constant.
        kurtosis_rms: Its root mean square.
        spectrum: Eigenvalues of the covariance from large to small, at most 64 of them, evenly spaced by rank.
        spectrum_reference: Those of N(0, I) for so many samples, by the law of Marchenko and Pastur.
        spectrum_error: Root mean square difference of the two, over all D eigenvalues.
        sliced_wasserstein: Sliced Wasserstein-2 distance to N(0, I): root mean square over random directions.
    """

    num_images: int
    dims: int
    constant_dims: int
    mean_rms: float
    variance_mean: float
    variance_std: float
    kurtosis_mean: float | None
    kurtosis_rms: float | None
    spectrum: tuple[float, ...]
    spectrum_reference: tuple[float, ...]
    spectrum_error: float
    sliced_wasserstein: float


def gaussian_statistics(
    z: Tensor, *, projections: int = 256, generator: torch.Generator | None = None
) -> GaussianStatistics:
    """Compares vectors with the standard normal distribution.

    Args:
        z: ``(N, ...)``; everything after the first axis is one vector.
        projections: Random directions of the sliced distance.
        generator: Where the directions are drawn from, on the CPU; torch's own if None.

    Raises:
        ValueError: If there are fewer than 2 vectors, or ``projections < 1``.
    """
    if z.ndim < 2 or len(z) < 2 or z[0].numel() == 0 or projections < 1:
        raise ValueError(
            f"At least 2 vectors and 1 projection are needed, got a shape of {tuple(z.shape)} and {projections}."
        )
    # On the CPU, as MPS has no float64.
    z = z.detach().cpu().double().flatten(1)
    count, dims = z.shape
    mean = z.mean(0)
    centred = z - mean
    variance = centred.square().mean(0)
    varies = variance > 1e-12
    kurtosis = (centred.pow(4).mean(0)[varies] / variance[varies].square()) - 3
    eigenvalues = covariance_spectrum(z)
    reference = marchenko_pastur(count - 1, dims)
    shown = torch.linspace(0, dims - 1, min(_SPECTRUM, dims)).round().long()
    unbiased = variance * count / (count - 1)
    return GaussianStatistics(
        num_images=count,
        dims=dims,
        constant_dims=int((~varies).sum()),
        mean_rms=_rms(mean),
        variance_mean=float(unbiased.mean()),
        variance_std=float(unbiased.std(correction=0)),
        kurtosis_mean=float(kurtosis.mean()) if len(kurtosis) else None,
        kurtosis_rms=_rms(kurtosis) if len(kurtosis) else None,
        spectrum=tuple(eigenvalues[shown].tolist()),
        spectrum_reference=tuple(reference[shown].tolist()),
        spectrum_error=_rms(eigenvalues - reference),
        sliced_wasserstein=_sliced_wasserstein(z, projections, generator),
    )


def gaussian_floor(
    count: int, dims: int, *, repeats: int = 3, projections: int = 256, generator: torch.Generator | None = None
) -> GaussianStatistics:
    """What `gaussian_statistics` says of true samples of N(0, I): the means over several draws.

    What lies no higher is sampling error, not a failure of the flow.

    Raises:
        ValueError: If ``repeats < 1``, or there are fewer than 2 vectors.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}.")
    drawn = [
        gaussian_statistics(
            torch.randn(count, dims, generator=generator, dtype=torch.float64),
            projections=projections,
            generator=generator,
        )
        for _ in range(repeats)
    ]
    first = drawn[0]

    def average(values: Sequence[float | None]) -> float:
        return math.fsum(value or 0.0 for value in values) / repeats

    return GaussianStatistics(
        num_images=count,
        dims=dims,
        constant_dims=0,
        mean_rms=average([one.mean_rms for one in drawn]),
        variance_mean=average([one.variance_mean for one in drawn]),
        variance_std=average([one.variance_std for one in drawn]),
        kurtosis_mean=average([one.kurtosis_mean for one in drawn]),
        kurtosis_rms=average([one.kurtosis_rms for one in drawn]),
        spectrum=tuple(average(values) for values in zip(*(one.spectrum for one in drawn), strict=True)),
        spectrum_reference=first.spectrum_reference,
        spectrum_error=average([one.spectrum_error for one in drawn]),
        sliced_wasserstein=average([one.sliced_wasserstein for one in drawn]),
    )


def covariance_spectrum(z: Tensor) -> Tensor:
    """Eigenvalues of the unbiased covariance of ``z`` ``(N, D)``, from large to small, ``(D,)`` float64."""
    centred = z.double() - z.double().mean(0)
    count, dims = centred.shape
    # The smaller of the two Gram matrices has all eigenvalues that are not zero.
    gram = centred.T @ centred if dims <= count else centred @ centred.T
    values = torch.linalg.eigvalsh(gram).flip(0).clamp(min=0) / (count - 1)
    return torch.cat([values, values.new_zeros(dims - len(values))])


def marchenko_pastur(count: int, dims: int) -> Tensor:
    """Eigenvalues to expect of the covariance of N(0, I), from large to small, ``(dims,)`` float64.

    Quantiles of the law of Marchenko and Pastur (1967) at the middles of ``dims`` ranks; with fewer samples than
    dimensions the share ``1 - count / dims`` of them is 0.

    Args:
        count: Samples, less one where the mean was estimated.
        dims: D.
    """
    ratio = dims / count
    # With lambda = 1 + ratio + 2 sqrt(ratio) cos(theta) the density has no singularity but an empty one at 0.
    theta = (torch.arange(20_000, dtype=torch.float64) + 0.5) * (math.pi / 20_000)
    value = 1 + ratio + 2 * math.sqrt(ratio) * theta.cos()
    mass = 2 * theta.sin().square() / (math.pi * value) * (math.pi / 20_000)
    # Theta rises as the eigenvalue falls, so this is the share of larger eigenvalues.
    larger = mass.cumsum(0) - mass / 2
    wanted = (torch.arange(dims, dtype=torch.float64) + 0.5) / dims
    found = torch.searchsorted(larger, wanted).clamp(max=len(value) - 1)
    return torch.where(wanted < min(1.0, 1 / ratio), value[found], 0.0)


def _sliced_wasserstein(z: Tensor, projections: int, generator: torch.Generator | None) -> float:
    directions = torch.randn(z.shape[1], projections, generator=generator, dtype=torch.float64)
    projected = (z @ (directions / directions.norm(dim=0))).sort(dim=0).values
    ranks = (torch.arange(len(z), dtype=torch.float64) + 0.5) / len(z)
    quantiles = torch.special.ndtri(ranks)[:, None]
    return float((projected - quantiles).square().mean().sqrt())


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())
