"""The digital corruptions: contrast, elastic transform, pixelation and JPEG."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.io import decode_jpeg, encode_jpeg

from lightly_prg.eval.corruptions.blur import gaussian_blur
from lightly_prg.eval.corruptions.levels import rounded
from lightly_prg.eval.corruptions.noise import uniform


def contrast(images: Tensor, share: float, *, generator: torch.Generator) -> Tensor:
    """Draws every value towards the mean of its channel in the image.

    Args:
        images: ``(N, C, H, W)`` in [0, 1].
        share: What is left of the distance to the mean.
        generator: Not used.
    """
    mean = images.mean(dim=(2, 3), keepdim=True)
    return mean + share * (images - mean)


def elastic_transform(
    images: Tensor, strength: float, smoothness: float, tilt: float, *, generator: torch.Generator
) -> Tensor:
    """Moves three points of the image at random, and the rest with them; then every pixel for itself.

    Args:
        images: ``(N, C, S, S)`` in [0, 1].
        strength: What the smoothed displacements of the pixels are multiplied by, in sides.
        smoothness: Standard deviation of the Gaussian that smooths them, in sides.
        tilt: The furthest that each of the three points moves in either direction, in sides.
        generator: Of all displacements.
    """
    count, _, side, _ = images.shape
    middle, arm = side // 2, side // 3
    # x, y
    points = images.new_tensor([[middle + arm, middle + arm], [middle + arm, middle - arm], [middle - arm] * 2])
    moved = points + uniform((count, 3, 2), -tilt * side, tilt * side, images, generator)
    # The affine map from where a point went to where it came from.
    back = torch.linalg.solve(F.pad(moved, (0, 1), value=1.0), points.expand(count, 3, 2))
    steps = torch.arange(side, device=images.device, dtype=images.dtype)
    places = torch.stack([steps.expand(side, side), steps[:, None].expand(side, side)], dim=-1)
    sources = (places.view(-1, 2) @ back[:, :2] + back[:, 2:]).view(count, side, side, 2)
    grid = 2 * sources / (side - 1) - 1
    images = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=True)

    draws = uniform((count, 2, side, side), -1.0, 1.0, images, generator)
    shifts = strength * side * gaussian_blur(draws, smoothness * side, truncate=3.0, border="mirror")
    grid = (2 * (places + shifts.permute(0, 2, 3, 1)) + 1) / side - 1
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def pixelate(images: Tensor, share: float, *, generator: torch.Generator) -> Tensor:
    """Reduces the image to a share of its side and enlarges it again, both as Pillow's box filter does.

    Args:
        images: ``(N, C, S, S)`` in [0, 1].
        share: Of the side; the reduced side is cut to a whole number.
        generator: Not used.
    """
    side = images.shape[-1]
    small = int(side * share)
    for matrix in (_box_matrix(side, small), _box_matrix(small, side)):
        matrix = matrix.to(images)
        images = rounded(matrix @ rounded(images @ matrix.T))
    return images


def jpeg_compression(images: Tensor, quality: int, *, generator: torch.Generator) -> Tensor:
    """Encodes every image as JPEG and decodes it again; grey images as grey.

    Args:
        images: ``(N, C, H, W)`` in [0, 1].
        quality: 1 to 100.
        generator: Not used.
    """
    levels = (images * 255).round().to(torch.uint8).cpu()
    decoded = [decode_jpeg(encode_jpeg(image, quality=quality)) for image in levels]
    return torch.stack(decoded).to(images) / 255


def _box_matrix(before: int, after: int) -> Tensor:
    """``(after, before)``: each row is the mean over the pixels whose middles lie in the box of the new pixel."""
    # In the order of Pillow's own arithmetic, which decides about middles on the very edge of a box.
    scale = before / after
    width = max(scale, 1.0)
    centres = (torch.arange(after, dtype=torch.float64)[:, None] + 0.5) * scale
    pixels = torch.arange(before)
    distance = (pixels - centres + 0.5) * (1 / width)
    first, end = ((centres + side * width / 2 + 0.5).long() for side in (-1, 1))
    inside = (distance > -0.5) & (distance <= 0.5) & (pixels >= first) & (pixels < end)
    return inside.double() / inside.sum(dim=1, keepdim=True)
