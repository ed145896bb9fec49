"""Whole grey levels from fractions of one, as the libraries behind CIFAR-10-C make them."""

from __future__ import annotations

import torch
from torch import Tensor

# What float32 may be short of a level that is reached exactly, in levels.
_SLACK = 1e-3


def cut_to_levels(images: Tensor) -> Tensor:
    """Maps floats to uint8, clipped to [0, 1] and cut down to the level below, as a cast does."""
    return (images.clamp(0, 1) * 255 + _SLACK).to(torch.uint8)


def rounded(images: Tensor) -> Tensor:
    """Rounds floats in [0, 1] to the nearest of 256 levels, halves up, still in [0, 1]."""
    return (images * 255 + (0.5 + _SLACK)).floor() / 255
