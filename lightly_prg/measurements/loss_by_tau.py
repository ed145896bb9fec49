"""The flow-matching loss at every place of the path, beside what predictors in closed form reach."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from lightly_prg.flow import Path, Velocity, couple
from lightly_prg.module_state import in_evaluation_mode
from lightly_prg.randomness import generator_for

_QUADRATURE = 256  # midpoints of a bin: near the data the loss of faint directions changes fast


@dataclass(frozen=True)
class LossByTau:
    """The loss in bins of tau, as trained: weighted by the path, a mean over dimensions.

    Attributes:
        edges: Ends of the bins, K + 1 positions.
        mean: Mean loss in each bin.
        standard_error: Its standard error over the images; None for a single image.
        overall: Mean over all bins, the loss for uniform tau.
        overall_standard_error: Of it, over the images.
        num_images: Images.
        draws: Noise and positions for each image and bin.
    """

    edges: tuple[float, ...]
    mean: tuple[float, ...]
    standard_error: tuple[float, ...] | None
    overall: float
    overall_standard_error: float | None
    num_images: int
    draws: int


@in_evaluation_mode
@torch.no_grad()
def loss_by_tau(
    velocity: Velocity,
    x: Tensor,
    *,
    path: Path,
    coupling: str = "independent",
    bins: int = 10,
    draws: int = 2,
    batch_size: int = 128,
    seed: int = 0,
) -> LossByTau:
    """Measures the flow-matching loss of held-out images in even bins of tau.

    Every image has its own noise and position in every bin, so the bins are estimated alike well and the overall mean
    has no error from how many positions fell where.

    Args:
        velocity: The network, ``velocity(tau (B,), x_tau) -> (B, ...)``.
        x: Images as the network sees them, ``(N, C, H, W)``.
        path: The path it was trained on.
        coupling: How it was trained to pair noise with images. Optimal transport pairs inside batches, so that the
            loss depends on ``batch_size``.
        bins: Even bins from ``tau_min`` to ``tau_max``.
        draws: Noise and positions for each image and bin.
        batch_size: Images at once.
        seed: Of noise and positions.

    Raises:
        ValueError: If there is no image, they are not floats, or a number is below 1.
    """
    if len(x) == 0 or min(bins, draws, batch_size) < 1:
        raise ValueError(
            f"At least one image, bin, draw and batch are needed, got {len(x)}, {bins}, {draws}, {batch_size}."
        )
    if not x.is_floating_point():
        raise ValueError(f"x holds {x.dtype}; images as the network sees them are floats, about [-1, 1].")
    edges = _edges(path, bins)
    losses = torch.zeros(len(x), bins, dtype=torch.float64)
    for start in range(0, len(x), batch_size):
        part = x[start : start + batch_size].float()
        rows = slice(start, start + len(part))
        for column in range(bins):
            for draw in range(draws):
                generator = generator_for(seed, "loss by tau", start, column, draw)
                noise = torch.randn(part.shape, generator=generator).to(part)
                noise = couple(part, noise, coupling)
                share = torch.rand(len(part), generator=generator)
                tau = (edges[column] + share * (edges[column + 1] - edges[column])).to(part)
                error = velocity(tau, path.interpolate(part, noise, tau)).to(part) - path.velocity(part, noise, tau)
                loss = path.loss_weight(tau) * error.square().flatten(1).mean(1)
                losses[rows, column] += loss.cpu().double() / draws
    several = len(x) > 1
    root = math.sqrt(len(x))
    return LossByTau(
        edges=tuple(edges),
        mean=tuple(losses.mean(0).tolist()),
        standard_error=tuple((losses.std(0) / root).tolist()) if several else None,
        overall=float(losses.mean()),
        overall_standard_error=float(losses.mean(1).std()) / root if several else None,
        num_images=len(x),
        draws=draws,
    )


def closed_form_losses(
    path: Path, edges: tuple[float, ...], spectrum: Tensor
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The loss of two predictors that need no network, for independent noise.

    For data of covariance eigenvalues ``lambda``, in each of the D directions:

    - the mean velocity, ``E[u]``, leaves its variance ``alpha'^2 lambda + sigma'^2``;
    - the best linear map of ``x_tau``, exact for Gaussian data, leaves
      ``(alpha sigma' - alpha' sigma)^2 lambda / (alpha^2 lambda + sigma^2)``.

    A network below the linear one has learnt what no covariance tells. Of a covariance that was estimated
    from 8 D images the second is 1 to 2 % too low.

    Args:
        path: The path.
        edges: Ends of the bins.
        spectrum: The eigenvalues ``lambda``, ``(D,)``.

    Returns:
        For each bin the loss of the mean velocity, and of the best linear predictor.
    """
    eigenvalues = spectrum.double()
    constant, linear = [], []
    for low, high in pairwise(edges):
        share = (torch.arange(_QUADRATURE, dtype=torch.float64) + 0.5) / _QUADRATURE
        tau = (low + (high - low) * share)[:, None]
        alpha, sigma = path.alpha(tau), path.sigma(tau)
        alpha_prime, sigma_prime = path.alpha_prime(tau), path.sigma_prime(tau)
        weight = path.loss_weight(tau)
        determinant = alpha * sigma_prime - alpha_prime * sigma
        variance = (alpha.square() * eigenvalues + sigma.square()).clamp(min=1e-300)
        left = determinant.square() * eigenvalues / variance
        constant.append(float((weight * (alpha_prime.square() * eigenvalues + sigma_prime.square())).mean()))
        linear.append(float((weight * left).mean()))
    return tuple(constant), tuple(linear)


def _edges(path: Path, bins: int) -> list[float]:
    width = (path.tau_max - path.tau_min) / bins
    return [*(path.tau_min + index * width for index in range(bins)), path.tau_max]
