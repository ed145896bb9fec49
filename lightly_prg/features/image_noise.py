"""Noise that belongs to an image: drawn from its content, whatever batch or order it comes in."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from lightly_prg.randomness import generator_for


def noise_of_images(images: Tensor, seed: int) -> Tensor:
    """Standard normal noise shaped as the images, ``(B, C, H, W)``, a function of each image and the seed alone.

    Drawn on the CPU, so that every device sees the same.
    """
    content = images.detach().float().cpu().contiguous()
    drawn = [
        torch.randn(
            image.shape,
            generator=generator_for(seed, "image noise", hashlib.sha256(image.numpy().tobytes()).hexdigest()),
        )
        for image in content
    ]
    return torch.stack(drawn).to(images.device)
