"""The views of SimCLR and MAE for whole batches, with the settings that Lightly has for small images."""

from __future__ import annotations

import torch
from torch import Tensor

from lightly_prg.transforms.color_jitter import color_jitter, random_greyscale
from lightly_prg.transforms.resized_crop import random_resized_crop


def simclr_views(
    images: Tensor,
    *,
    generator: torch.Generator | None,
    crop_min: float = 0.08,
    horizontal_flip: bool = True,
    jitter_strength: float = 0.5,
    jitter_probability: float = 0.8,
    grey_probability: float = 0.2,
    global_batch: int | None = None,
    first: int = 0,
) -> list[Tensor]:
    """Makes the two views of every image that SimCLR compares (arXiv 2002.05709, section 2.2 and appendix A).

    Random resized crop, horizontal flip, colour jitter and random greyscale, in this order. The defaults are those of
    ``lightly.transforms.SimCLRTransform(input_size=32, cj_strength=0.5, gaussian_blur=0.0)``, Lightly's settings for
    CIFAR: small images are not blurred. Images of one channel keep crop, flip, brightness and contrast.

    Args:
        images: Shape (B, 3, H, W) or (B, 1, H, W), uint8 or float in [0, 1], on any device.
        generator: Where all draws come from.
        crop_min: Smallest share of the image's area that a crop covers; the largest is 1.
        horizontal_flip: Whether every other view (at random) is mirrored left to right.
        jitter_strength: Strength of the colour jitter; 0 for none.
        jitter_probability: With which a view's colours are changed.
        grey_probability: With which a view becomes grey.
        global_batch: Size of the batch that the draws are made for, of which ``images`` may be one process's part;
            None for B.
        first: Position of the first image in that batch.

    Returns:
        Two independent views, each of the shape of ``images``, float32 in [0, 1].

    Raises:
        ValueError: If an option or the number of channels is not allowed, or the images lie outside the global batch.

    Example:
        >>> from lightly_prg.randomness import generator_for
        >>> images = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
        >>> first_view, second_view = simclr_views(images, generator=generator_for(0, "augment", 7))
        >>> first_view.shape
        torch.Size([4, 3, 32, 32])
    """
    views = []
    for _ in range(2):
        view = crop_view(
            images,
            generator=generator,
            crop_min=crop_min,
            horizontal_flip=horizontal_flip,
            global_batch=global_batch,
            first=first,
        )
        view = color_jitter(
            view,
            strength=jitter_strength,
            probability=jitter_probability,
            generator=generator,
            global_batch=global_batch,
            first=first,
        )
        views.append(
            random_greyscale(
                view, probability=grey_probability, generator=generator, global_batch=global_batch, first=first
            )
        )
    return views


def crop_view(
    images: Tensor,
    *,
    generator: torch.Generator | None,
    crop_min: float = 0.2,
    horizontal_flip: bool = True,
    global_batch: int | None = None,
    first: int = 0,
) -> Tensor:
    """Makes the one view that MAE reconstructs (arXiv 2111.06377, appendix A.1): random resized crop and flip.

    Args:
        images: Shape (B, C, H, W), uint8 or float in [0, 1], on any device.
        generator: Where all draws come from.
        crop_min: Smallest share of the image's area that a crop covers; the largest is 1.
        horizontal_flip: Whether every other view (at random) is mirrored left to right.
        global_batch: Size of the batch that the draws are made for; None for B.
        first: Position of the first image in that batch.

    Returns:
        The shape of ``images``, float32 in [0, 1].

    Raises:
        ValueError: If ``crop_min`` is no share, or the images lie outside the global batch.
    """
    return random_resized_crop(
        images,
        scale=(crop_min, 1.0),
        horizontal_flip=horizontal_flip,
        generator=generator,
        global_batch=global_batch,
        first=first,
    )
