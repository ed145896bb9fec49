"""The noises among the corruptions, and the draws of all of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def gaussian_noise(images: Tensor, deviation: float, *, generator: torch.Generator) -> Tensor:
    """Adds normal noise of one standard deviation to every value.

    Args:
        images: ``(N, C, H, W)`` in [0, 1].
        deviation: In units of the whole range.
        generator: Of the draws.
    """
    return images + deviation * normal(images.shape, images, generator)


def shot_noise(images: Tensor, photons: float, *, generator: torch.Generator) -> Tensor:
    """Counts photons: Poisson with a mean of ``photons`` where a value is 1.

    Args:
        images: ``(N, C, H, W)`` in [0, 1].
        photons: The fewer, the noisier.
        generator: Of the draws.
    """
    expected = (images * photons).to(generator.device)
    return torch.poisson(expected, generator=generator).to(images.device) / photons


def impulse_noise(images: Tensor, share: float, *, generator: torch.Generator) -> Tensor:
    """Salt and pepper: sets a share of the values, each channel for itself, to 0 or 1, equally often.

    Args:
        images: ``(N, C, H, W)`` in [0, 1].
        share: Of the values that are set, on average.
        generator: Of the draws.
    """
    draws = uniform(images.shape, 0.0, 1.0, images, generator)
    # One draw decides both: the lower half of those below the share is pepper.
    return torch.where(draws < share, (draws >= share / 2).to(images), images)


def uniform(shape: Sequence[int], low: float, high: float, like: Tensor, generator: torch.Generator) -> Tensor:
    """Draws from [low, high) where the generator is, of the type and on the device of ``like``."""
    draws = torch.rand(tuple(shape), generator=generator, device=generator.device, dtype=like.dtype)
    return (low + (high - low) * draws).to(like.device)


def normal(shape: Sequence[int], like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal draws where the generator is, of the type and on the device of ``like``."""
    draws = torch.randn(tuple(shape), generator=generator, device=generator.device, dtype=like.dtype)
    return draws.to(like.device)
