"""Colour jitter and random greyscale of whole batches: every image its own factors, in an order of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lightly_prg.transforms.resized_crop import draw_uniform

_Operation = Callable[[Tensor, Tensor], Tensor]
_LUMA = (0.2989, 0.587, 0.114)
_LARGEST_STRENGTH = 2.5  # a hue turned by more than half the circle is one turned by less


def color_jitter(
    images: Tensor,
    *,
    strength: float,
    probability: float,
    generator: torch.Generator | None,
    global_batch: int | None = None,
    first: int = 0,
) -> Tensor:
    """Changes brightness, contrast, saturation and hue of every image by factors and in an order of its own.

    This is torchvision's ``ColorJitter(0.8 s, 0.8 s, 0.8 s, 0.2 s)`` for the strength s, as in SimCLR (arXiv
    2002.05709, appendix A) and Lightly's ``SimCLRTransform``. Images of one channel have neither saturation nor hue:
    only their brightness and contrast change. Nothing is drawn, and ``images`` itself comes back, where strength or
    probability is 0.

    Args:
        images: Shape (B, 3, H, W) or (B, 1, H, W), float in [0, 1], on any device; they are left as they are.
        strength: s, from 0 to 2.5; Lightly has 0.5 for small images and 1 for large ones.
        probability: With which an image is changed at all.
        generator: Where the draws come from.
        global_batch: Size of the batch that the draws are made for, of which ``images`` may be one process's part;
            None for B.
        first: Position of the first image in that batch.

    Returns:
        The same shape and type, in [0, 1].

    Raises:
        ValueError: If an option or the number of channels is not allowed, or the images lie outside the global batch.
    """
    _check_images(images)
    _check_probability(probability)
    if not 0 <= strength <= _LARGEST_STRENGTH:
        raise ValueError(f"strength is {strength}; it has to lie in [0, {_LARGEST_STRENGTH}].")
    if strength == 0 or probability == 0:
        return images
    uniform = draw_uniform(
        len(images), 9, generator=generator, device=images.device, global_batch=global_batch, first=first
    )
    shares, keys, chance = uniform[:, :4], uniform[:, 4:8], uniform[:, 8:]
    # An image that is not changed has no operation at any place.
    order = torch.where(chance < probability, keys.argsort(dim=1), -1)
    low, high = max(0.0, 1 - 0.8 * strength), 1 + 0.8 * strength
    factors = low + (high - low) * shares
    factors[:, 3] = 0.2 * strength * (2 * shares[:, 3] - 1)
    factors = factors.to(images.dtype)
    operations = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
    apply = _to_its_images if images.device.type == "cpu" else _to_all_images
    result = images.clone()
    for place in range(4):
        for index, operation in enumerate(operations if images.shape[1] == 3 else operations[:2]):
            result = apply(operation, result, factors[:, index], order[:, place] == index)
    return result


def _to_its_images(operation: _Operation, images: Tensor, factors: Tensor, chosen: Tensor) -> Tensor:
    """Changes the chosen images in place and computes no other: the way of a CPU, whose time goes with the images."""
    rows = chosen.nonzero().flatten()
    if len(rows):
        images.index_copy_(0, rows, operation(images.index_select(0, rows), factors[rows]))
    return images


def _to_all_images(operation: _Operation, images: Tensor, factors: Tensor, chosen: Tensor) -> Tensor:
    """The same where finding the chosen images would take longer: a GPU has to be waited for to count them."""
    return torch.where(_column(chosen), operation(images, factors), images)


def random_greyscale(
    images: Tensor,
    *,
    probability: float,
    generator: torch.Generator | None,
    global_batch: int | None = None,
    first: int = 0,
) -> Tensor:
    """Makes some images grey: all three channels become their luminance.

    Images of one channel, and all images for probability 0, come back themselves, and nothing is drawn.

    Args:
        images: Shape (B, 3, H, W) or (B, 1, H, W), float in [0, 1], on any device; they are left as they are.
        probability: With which an image becomes grey.
        generator: Where the draws come from.
        global_batch: Size of the batch that the draws are made for; None for B.
        first: Position of the first image in that batch.

    Returns:
        The same shape and type.

    Raises:
        ValueError: If the probability or the number of channels is not allowed, or the images lie outside the global
            batch.
    """
    _check_images(images)
    _check_probability(probability)
    if images.shape[1] == 1 or probability == 0:
        return images
    chance = draw_uniform(
        len(images), 1, generator=generator, device=images.device, global_batch=global_batch, first=first
    )
    return torch.where(_column(chance[:, 0]) < probability, _luminance(images), images)


def adjust_brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Multiplies every image (B, C, H, W) in [0, 1] by its factor (B,), cut off at 1."""
    return images.mul(_column(factors)).clamp_(0, 1)


def adjust_contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Mixes every image (B, C, H, W) in [0, 1] with its mean luminance; of that, a factor (B,) of 1 takes nothing."""
    means = images.mean(dim=(2, 3), keepdim=True)
    if images.shape[1] == 3:
        means = _luminance(means)
    return _blend(images, means, factors)


def adjust_saturation(images: Tensor, factors: Tensor) -> Tensor:
    """Mixes every image (B, 3, H, W) in [0, 1] with its luminance; of that, a factor (B,) of 1 takes nothing."""
    return _blend(images, _luminance(images), factors)


def adjust_hue(images: Tensor, factors: Tensor) -> Tensor:
    """Turns the hue of every image (B, 3, H, W) in [0, 1] by its share (B,) of the colour circle.

    A pixel between its smallest channel m and its largest M has the hue h on a circle of six; each channel of a hue is
    ``m + (M - m) * clamp(p(h), 0, 1)`` with p = ``|h - 3| - 1`` for red, ``2 - |h - 2|`` for green and ``2 - |h - 4|``
    for blue.
    """
    red, green, blue = images.unbind(dim=1)
    # Pixel by pixel these are several times faster than the reduction over the channels.
    smallest, largest = torch.minimum(red, green).minimum(blue), torch.maximum(red, green).maximum(blue)
    spread = largest - smallest
    # Where all channels are equal, so that the hue is not defined, every numerator is 0.
    inverse = spread.clamp_min(torch.finfo(images.dtype).tiny).reciprocal_()
    hue = torch.where(
        largest == red,
        (green - blue).mul_(inverse),
        torch.where(largest == green, (blue - red).mul_(inverse).add_(2), (red - green).mul_(inverse).add_(4)),
    )
    hue = hue.add_(6 * factors[:, None, None]).remainder_(6)
    centre, sign, offset = images.new_tensor([[3, 2, 4], [1, -1, -1], [-1, 2, 2]])[:, :, None, None].unbind(0)
    share = (hue[:, None] - centre).abs_().mul_(sign).add_(offset).clamp_(0, 1)
    return share.mul_(spread[:, None]).add_(smallest[:, None])


def _luminance(images: Tensor) -> Tensor:
    """(B, 3, H, W) to (B, 1, H, W)."""
    red, green, blue = images[:, 0:1], images[:, 1:2], images[:, 2:3]
    return red.mul(_LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])


def _blend(images: Tensor, others: Tensor, factors: Tensor) -> Tensor:
    share = _column(factors)
    return images.mul(share).add_(others * (1 - share)).clamp_(0, 1)


def _column(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _check_images(images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.is_floating_point():
        raise ValueError(
            f"Images are {images.dtype} of shape {tuple(images.shape)}; float in [0, 1] of shape (B, 3, H, W) or "
            "(B, 1, H, W) is needed."
        )


def _check_probability(probability: float) -> None:
    if not 0 <= probability <= 1:
        raise ValueError(f"The probability is {probability}; it has to lie in [0, 1].")
