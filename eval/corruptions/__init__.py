"""The 15 corruptions of CIFAR-10-C at five severities, computed on whole batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightly_prg.errors import UserError
from lightly_prg.eval.corruptions import blur, digital, noise, weather
from lightly_prg.eval.corruptions.levels import cut_to_levels

_SMALLEST = 16

# The constants of Hendrycks and Dietterich for images of 32 pixels, for the severities 1 to 5.
_PUBLISHED: dict[str, tuple[Callable[..., Tensor], tuple[tuple[Any, ...], ...]]] = {
    "gaussian_noise": (noise.gaussian_noise, ((0.04,), (0.06,), (0.08,), (0.09,), (0.10,))),
    "shot_noise": (noise.shot_noise, ((500,), (250,), (100,), (75,), (50,))),
    "impulse_noise": (noise.impulse_noise, ((0.01,), (0.02,), (0.03,), (0.05,), (0.07,))),
    "defocus_blur": (blur.defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))),
    "glass_blur": (blur.glass_blur, ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))),
    "motion_blur": (blur.motion_blur, ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))),
    "zoom_blur": (blur.zoom_blur, ((7,), (12,), (16,), (21,), (26,))),
    "snow": (
        weather.snow,
        (
            (0.10, 0.2, 1.00, 0.60, 8, 3, 0.95),
            (0.10, 0.2, 1.00, 0.50, 10, 4, 0.90),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.90),
            (0.25, 0.3, 2.25, 0.60, 12, 6, 0.85),
            (0.30, 0.3, 1.25, 0.65, 14, 12, 0.80),
        ),
    ),
    "frost": (weather.frost, ((1.0, 0.2), (1.0, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))),
    "fog": (weather.fog, ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))),
    "brightness": (weather.brightness, ((0.05,), (0.1,), (0.15,), (0.2,), (0.3,))),
    "contrast": (digital.contrast, ((0.75,), (0.5,), (0.4,), (0.3,), (0.15,))),
    "elastic_transform": (
        digital.elastic_transform,
        ((0.0, 0.0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    ),
    "pixelate": (digital.pixelate, ((0.95,), (0.9,), (0.85,), (0.75,), (0.65,))),
    "jpeg_compression": (digital.jpeg_compression, ((80,), (65,), (58,), (50,), (40,))),
}

CORRUPTIONS: tuple[str, ...] = tuple(_PUBLISHED)
"""The names, in the order of the paper: noise, blur, weather, digital."""

SEVERITIES: tuple[int, ...] = (1, 2, 3, 4, 5)


def corrupt(images: Tensor, name: str, severity: int, *, generator: torch.Generator) -> Tensor:
    """Corrupts a batch as CIFAR-10-C does [0], with its constants.

    The constants are those of 32 pixels. Lengths in pixels (radii of blurs, shifts) stay as they are for other sizes;
    those of ``elastic_transform``, which are published as shares of the side, grow with it. Of the published files,
    frost differs, whose photographs are replaced by a computed texture; everything else differs by its draws, and by a
    grey level or so where another library rounds. As there, levels are cut to whole numbers, not rounded.

    Grey images are corrupted as colour images of three equal channels would be: brightness adds to the grey value,
    which is then the V of HSV, and snow whitens by it, which is then the luma. The exceptions: a pixel has one draw of
    noise, not three, the texture of frost is grey, and JPEG encodes grey.

    - [0]: Benchmarking Neural Network Robustness to Common Corruptions and Perturbations, 2019,
        https://arxiv.org/abs/1903.12261

    Args:
        images: ``(N, C, S, S)`` uint8 with C = 1 or 3 and S of at least 16, on any device.
        name: One of ``CORRUPTIONS``.
        severity: 1 to 5.
        generator: Where the draws come from. What an image gets depends on its place in the batch.

    Returns:
        Corrupted images of the same shape, type and device.

    Raises:
        UserError: If there is no such corruption or severity, or the images are not square or too small.
        ValueError: If the images are not uint8 of shape ``(N, C, S, S)`` with C = 1 or 3.

    Example:
        >>> grey = torch.full((1, 1, 16, 16), 100, dtype=torch.uint8)
        >>> int(corrupt(grey, "brightness", 5, generator=torch.Generator())[0, 0, 0, 0])  # 100 + 0.3 * 255
        176
    """
    check_condition(name, severity)
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            f"Images are {images.dtype} of shape {tuple(images.shape)}; uint8 of shape (N, 1 or 3, S, S) is needed."
        )
    check_size(*images.shape[2:])
    if len(images) == 0:
        return images.clone()
    function, constants = _PUBLISHED[name]
    corrupted = function(images.float() / 255, *constants[severity - 1], generator=generator)
    return cut_to_levels(corrupted)


def check_size(height: int, width: int) -> None:
    """Refuses images that are not square or too small.

    Raises:
        UserError: With their size.
    """
    if height != width or height < _SMALLEST:
        raise UserError(
            f"The images have {height} x {width} pixels; corruptions need square ones of at least {_SMALLEST}."
        )


def check_condition(name: str, severity: int) -> None:
    """Refuses what is not one of the 15 x 5 conditions.

    Raises:
        UserError: If there is no such corruption or severity.
    """
    if name not in _PUBLISHED:
        raise UserError(f"There is no corruption {name!r}; allowed are {', '.join(CORRUPTIONS)}.")
    if severity not in SEVERITIES:
        raise UserError(f"The severity is {severity!r}; allowed are 1, 2, 3, 4 and 5.")
