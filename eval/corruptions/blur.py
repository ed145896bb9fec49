"""The blurs among the corruptions."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lightly_prg.eval.corruptions.levels import cut_to_levels, rounded
from lightly_prg.eval.corruptions.noise import uniform

_NEGLIGIBLE = 1e-6


def defocus_blur(images: Tensor, radius: float, softness: float, *, generator: torch.Generator) -> Tensor:
    """Averages over a disc with soft edges; borders are mirrored about the middle of the outermost pixel.

    Args:
        images: ``(N, C, H, W)`` in [0, 1].
        radius: Of the disc, in pixels. Below 1 it is a single pixel, and the softness does all.
        softness: Standard deviation of the 3 x 3 Gaussian that softens the disc, in pixels.
        generator: Not used.
    """
    reach = int(radius)
    steps = torch.arange(-reach, reach + 1)
    disc = (steps[:, None].square() + steps.square() <= radius**2).double()
    line = _bell(torch.arange(-1, 2), softness)
    kernel = F.conv2d(disc[None, None], torch.outer(line, line)[None, None], padding=2)[0, 0]
    kernel /= kernel.sum()
    padded = F.pad(images, [reach + 1] * 4, mode="reflect")
    height, width = images.shape[2:]
    # Shifted and added, since a convolution may compute in TF32.
    total = torch.zeros_like(images)
    for row, column in (kernel > _NEGLIGIBLE).nonzero().tolist():
        total += float(kernel[row, column]) * padded[:, :, row : row + height, column : column + width]
    return total


def glass_blur(images: Tensor, sigma: float, rounds: int, *, generator: torch.Generator) -> Tensor:
    """Blurs, scatters the pixels by up to one, and blurs again.

    A pixel takes the colour of itself or of its neighbour above, left or above left; where the paper says that the two
    are exchanged, the code of the published files copies, as is done here. The first two rows and columns keep theirs.

    Args:
        images: ``(N, C, S, S)`` in [0, 1].
        sigma: Of both Gaussian blurs, in pixels.
        rounds: How often the pixels are scattered.
        generator: Of the scatter.
    """
    count, channels, side, _ = images.shape
    scattered = cut_to_levels(gaussian_blur(images, sigma)).to(images) / 255
    rows = torch.arange(side, device=images.device)[:, None]
    columns = rows.T
    inner = (rows >= 2) & (columns >= 2)
    for _ in range(rounds):
        # The published loop runs from the last pixel to the first, so that it only reads what it has not yet changed.
        up, left = (uniform((count, side, side), 0.0, 2.0, images, generator).long() * inner for _ in range(2))
        pixels = ((rows - up) * side + (columns - left)).view(count, 1, -1).expand(-1, channels, -1)
        scattered = scattered.flatten(2).gather(2, pixels).view_as(images)
    return gaussian_blur(scattered, sigma)


def motion_blur(images: Tensor, radius: int, sigma: float, *, generator: torch.Generator) -> Tensor:
    """Smears every image in a direction of its own, within 45 degrees of the horizontal.

    Args:
        images: ``(N, C, H, W)`` in [0, 1].
        radius: Half the length of the kernel, in pixels.
        sigma: Of the half Gaussian that is the trail, in pixels.
        generator: Of the directions.
    """
    return smear(images, radius, sigma, uniform((len(images),), -45.0, 45.0, images, generator))


def zoom_blur(images: Tensor, factors: int, *, generator: torch.Generator) -> Tensor:
    """Averages the image with its enlargements by 1, 1.01, 1.02, ...

    Args:
        images: ``(N, C, S, S)`` in [0, 1].
        factors: How many enlargements.
        generator: Not used.
    """
    total = images.clone()
    for step in range(factors):
        total += zoom(images, 1 + 0.01 * step)
    return total / (factors + 1)


def zoom(images: Tensor, factor: float) -> Tensor:
    """Enlarges the middle of square images so that it fills them, bilinearly.

    Args:
        images: ``(N, C, S, S)``.
        factor: At least 1.
    """
    side = images.shape[-1]
    kept = math.ceil(side / factor)
    first = (side - kept) // 2
    middle = images[..., first : first + kept, first : first + kept]
    size = round(kept * factor)
    enlarged = F.interpolate(middle, size=(size, size), mode="bilinear", align_corners=True)
    trim = (size - side) // 2
    return enlarged[..., trim : trim + side, trim : trim + side]


def smear(images: Tensor, radius: int, sigma: float, degrees: Tensor) -> Tensor:
    """Gives every pixel a trail on one side of it, as ImageMagick's motion blur does, and rounds to grey levels.

    The trail is a half Gaussian of ``2 * radius + 1`` whole pixels; borders are repeated.

    Args:
        images: ``(N, C, H, W)`` in [0, 1].
        radius: In pixels.
        sigma: In pixels.
        degrees: ``(N,)``, clockwise from the right.
    """
    height, width = images.shape[2:]
    steps = torch.arange(2 * radius + 1, device=images.device)
    kernel = _bell(steps, sigma)
    steps = steps[kernel > _NEGLIGIBLE]
    radians = torch.deg2rad(degrees)[:, None]
    right, down = ((steps * part - 0.5).ceil().long() for part in (radians.cos(), radians.sin()))
    rows, columns = (torch.arange(size, device=images.device) for size in (height, width))
    flat = images.flatten(2)
    total = torch.zeros_like(flat)
    for step, weight in enumerate(kernel[: len(steps)].tolist()):
        row = (rows + down[:, step, None]).clamp(0, height - 1)
        column = (columns + right[:, step, None]).clamp(0, width - 1)
        pixels = (row[:, :, None] * width + column[:, None, :]).view(len(images), 1, -1)
        total += weight * flat.gather(2, pixels.expand_as(flat))
    return rounded(total.view_as(images))


def gaussian_blur(
    images: Tensor, sigma: float, *, truncate: float = 4.0, border: Literal["repeat", "mirror"] = "repeat"
) -> Tensor:
    """Blurs square images by a Gaussian cut off at ``truncate * sigma``.

    Args:
        images: ``(..., S, S)``.
        sigma: In pixels; 0 changes nothing.
        truncate: In standard deviations.
        border: Whether the outermost pixel is repeated, or all are mirrored, beginning with it.
    """
    reach = int(truncate * sigma + 0.5)
    if reach == 0:
        return images
    side = images.shape[-1]
    steps = torch.arange(-reach, reach + 1)
    sources = torch.arange(side)[:, None] + steps
    if border == "repeat":
        sources = sources.clamp(0, side - 1)
    else:
        sources = sources.remainder(2 * side)
        sources = torch.minimum(sources, 2 * side - 1 - sources)
    weights = _bell(steps, sigma).expand(side, -1)
    matrix = torch.zeros(side, side, dtype=weights.dtype).scatter_add_(1, sources, weights).to(images)
    return matrix @ images @ matrix.T


def _bell(steps: Tensor, sigma: float) -> Tensor:
    """A Gaussian at whole steps that sums to 1."""
    # On the CPU, since not every device has float64.
    bell = torch.exp(-steps.cpu().double().square() / (2 * sigma**2))
    return (bell / bell.sum()).to(steps.device, torch.float64 if steps.device.type != "mps" else torch.float32)
